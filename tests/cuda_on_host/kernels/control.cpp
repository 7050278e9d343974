// The layer's own switches.
#include "cuda_on_host/cuda_runtime.h"
#include "exports.h"

using namespace dapt::on_host;

EXPORT void seed(std::uint64_t value) { set_seed(value); }

EXPORT std::uint64_t barriers_passed() { return counters().barriers; }

EXPORT void play_device(int major, int multiprocessors, std::size_t shared_per_block) {
  DeviceModel model;
  model.major = major;
  model.multiprocessors = multiprocessors;
  model.shared_per_block = shared_per_block;
  set_device(model);
}
