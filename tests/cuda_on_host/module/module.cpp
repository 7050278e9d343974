// A Python module for the tests, without torch:
//   plans.fps(...)        how a CUDA kernel would be launched for a shape and a device
//   on_host.fps(...)      the CUDA kernels themselves, run on the CPU
#include <pybind11/pybind11.h>

#include "cuda/device.h"
#include "cuda_on_host/device.h"
#include "cuda_on_host/execution.h"
#include "cuda_on_host/traffic.h"
#include "module.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace dapt {
namespace {

void bind_devices(py::module_ m) {
  py::class_<cuda::Device>(m, "Device", py::module_local())
      .def(py::init([](int multiprocessors, int shared_per_block, int max_cluster, int code) {
             return cuda::Device{multiprocessors, shared_per_block, max_cluster, code};
           }),
           "multiprocessors"_a, "shared_per_block"_a, "max_cluster"_a, "code"_a);
  m.attr("A100") = cuda::kA100;
  m.attr("H100") = cuda::kH100;
}

/// Sets the device that the host plays: a GPU of some compute capability, running code that may
/// have been compiled for an older one.
void play_device(const cuda::Device& device, int major) {
  on_host::DeviceModel model;
  model.major = major;
  model.code = device.code;
  model.multiprocessors = device.multiprocessors;
  model.shared_per_block = device.shared_per_block;
  model.max_cluster = device.max_cluster;
  on_host::set_device(model);
}

void bind_playing(py::module_ m) {
  m.def("accesses_watched", [] { return on_host::counters().watched; });
  m.def("count_traffic", &on_host::count_traffic, "on"_a);
  m.def("traffic", [] {
    py::list all;
    for (const on_host::Traffic& t : on_host::traffic())
      all.append(py::dict("kernel"_a = t.kernel, "code"_a = t.code,
                          "shared_requests"_a = t.shared_requests, "wavefronts"_a = t.wavefronts,
                          "least_wavefronts"_a = t.least_wavefronts,
                          "global_requests"_a = t.global_requests, "sectors"_a = t.sectors,
                          "least_sectors"_a = t.least_sectors));
    return all;
  });
  m.def("play_device", &play_device, "device"_a = cuda::kH100, "major"_a = 9);
  m.def("set_seed", &on_host::set_seed, "Seed of thread order and of shared memory's poison");
}

}  // namespace

PYBIND11_MODULE(cuda_on_host, m) {
  m.doc() = "How CUDA kernels would be launched, and their run on the host.";
  const auto plans = m.def_submodule("plans", "Launch plans: pure functions of shape and device");
  bind_devices(plans);
  bind_point_plans(plans);
  bind_token_plans(plans);
  const auto on_host = m.def_submodule("on_host", "The CUDA kernels, run on the CPU");
  bind_playing(on_host);
  bind_points_on_host(on_host);
  bind_tokens_on_host(on_host);
}

}  // namespace dapt
