// A kernel that indexes with garbage, as can happen without a barrier, must not end the process.
#pragma once

#include <csignal>

namespace dapt::on_host {

// While it lives, run() reports a bad address or a division by zero in a kernel as a failed launch.
// AddressSanitizer reports more, so in its builds this does nothing.
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
