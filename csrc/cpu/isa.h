// Instruction sets of the CPU kernels. Every file of csrc/cpu that includes this header is compiled
// once per set, with DAPT_ISA naming the namespace that holds that build's kernels.
#pragma once

#ifndef DAPT_ISA
#define DAPT_ISA scalar
#endif

namespace dapt::cpu {

enum class Isa { scalar, avx2, avx512 };

/// The set that the next call uses: DAPT_CPU_ISA if set, else the widest that this machine has.
/// Throws if DAPT_CPU_ISA names an unknown set or one that the machine lacks.
Isa active_isa();

/// The name of a set, and whether both this build and this machine have it.
const char* isa_name(Isa isa);
bool isa_available(Isa isa);

}  // namespace dapt::cpu
