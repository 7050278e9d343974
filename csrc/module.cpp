// The Python module `dapt_ext._module`: build info, launch plans, and the CUDA kernels run on the
// host, on numpy arrays. It needs no torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <string>
#include <vector>

#include "cpu/isa.h"

namespace py = pybind11;

namespace dapt {
namespace {

std::vector<std::string> words(const std::string& list) {
  std::vector<std::string> out;
  std::istringstream in(list);
  for (std::string word; std::getline(in, word, ',');) {
    if (!word.empty()) out.push_back(word);
  }
  return out;
}

py::dict build_info() {
  std::vector<std::string> sets;
  for (cpu::Isa isa : {cpu::Isa::avx512, cpu::Isa::avx2, cpu::Isa::scalar}) {
    if (cpu::isa_available(isa)) sets.push_back(cpu::isa_name(isa));
  }
  py::dict info;
  info["version"] = DAPT_VERSION;
  info["compiler"] = std::string(DAPT_COMPILER);
  info["cpu_instruction_sets"] = sets;
  info["cpu_instruction_set_in_use"] = cpu::isa_name(cpu::active_isa());
  info["cuda_architectures"] = words(DAPT_CUDA_ARCHITECTURES);
  return info;
}

}  // namespace

PYBIND11_MODULE(_module, m) {
  m.doc() = "What was built, how CUDA kernels would be launched, and their run on the host.";
  m.def("build_info", &build_info);
}

}  // namespace dapt
