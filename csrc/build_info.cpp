// Describes as JSON what was built and which part of it this machine uses, for either library.
#include <sstream>
#include <string>

#include "backend.h"
#include "cpu/isa.h"

namespace dapt {
namespace {

/// `text`, which must need no escaping, as a JSON string.
std::string json(const std::string& text) { return '"' + text + '"'; }

/// "8.0,9.0" as ["8.0", "9.0"]
std::string json_list(const std::string& words) {
  std::string out;
  std::istringstream in(words);
  for (std::string word; std::getline(in, word, ',');) {
    if (!word.empty()) out += (out.empty() ? "" : ", ") + json(word);
  }
  return '[' + out + ']';
}

std::string build_info() {
  std::string sets;
  for (cpu::Isa isa : {cpu::Isa::avx512, cpu::Isa::avx2, cpu::Isa::scalar}) {
    if (cpu::isa_available(isa)) sets += cpu::isa_name(isa) + std::string(",");
  }
  std::ostringstream out;
  out << "{\"version\": " << json(DAPT_VERSION) << ", \"compiler\": " << json(DAPT_COMPILER)
      << ", \"cpu_instruction_sets\": " << json_list(sets)
      << ", \"cpu_instruction_set_in_use\": " << json(cpu::isa_name(cpu::active_isa()))
      << ", \"cuda_architectures\": " << json_list(DAPT_CUDA_ARCHITECTURES) << '}';
  return out.str();
}

}  // namespace

DAPT_LIBRARY_IMPL(CompositeExplicitAutograd, m) { m.impl("build_info", TORCH_BOX(&build_info)); }

}  // namespace dapt
