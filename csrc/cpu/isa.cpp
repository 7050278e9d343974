#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace dapt::cpu {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    case Isa::scalar: break;
  }
  return "scalar";
}

bool isa_available(Isa isa) {
#ifdef DAPT_X86
  if (isa == Isa::avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return isa == Isa::scalar;
}

Isa active_isa() {
  static const Isa widest = isa_available(Isa::avx512) ? Isa::avx512
                            : isa_available(Isa::avx2) ? Isa::avx2
                                                       : Isa::scalar;
  const char* wish = std::getenv("DAPT_CPU_ISA");
  if (!wish || !*wish) return widest;
  std::string have;
  for (Isa isa : {Isa::avx512, Isa::avx2, Isa::scalar}) {
    if (!isa_available(isa)) continue;
    if (std::string(wish) == isa_name(isa)) return isa;
    have += (have.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw std::runtime_error("DAPT_CPU_ISA must be one of " + have + " on this machine, got " + wish);
}

}  // namespace dapt::cpu
