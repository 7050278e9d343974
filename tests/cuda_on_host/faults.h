// A kernel that indexes with garbage, as without a barrier it well may, must not end the process.
#pragma once

#include <csignal>

namespace dapt::on_host {

// While it lives, a bad address or a division by zero in a kernel is a failure of the launch, which
// run() reports. AddressSanitizer reports more, so in its builds this does nothing.
class FaultsAreFailures {
 public:
  FaultsAreFailures();
  ~FaultsAreFailures();
  FaultsAreFailures(const FaultsAreFailures&) = delete;

 private:
  static constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE};
  struct sigaction before_[3];
};

}  // namespace dapt::on_host
