#include "cuda_on_host/faults.h"

#include <pthread.h>

#include <cstdio>

#include "cuda_on_host/sanitizer.h"
#include "cuda_on_host/scheduler.h"

namespace dapt::on_host {

#ifdef DAPT_ADDRESS_SANITIZER

FaultsAreFailures::FaultsAreFailures() {}
FaultsAreFailures::~FaultsAreFailures() {}

#else

static pthread_t launching;

// Runs on the stack of the fiber that caused the fault, which is then abandoned.
static void on_fault(int signal, siginfo_t* info, void*) {
  if (!pthread_equal(launching, pthread_self()) || !Fiber::inside()) {
    std::signal(signal, SIG_DFL);  // not a kernel's fault: let it happen again and end the process
    return;
  }
  char reason[64] = "divides an integer by zero";
  if (signal != SIGFPE)
    std::snprintf(reason, sizeof reason, "uses address %p, where there is no memory",
                  info->si_addr);
  try {
    fail(reason);
  } catch (...) {
    execution.failure = std::current_exception();
  }
  Fiber::suspend();
}

FaultsAreFailures::FaultsAreFailures() {
  launching = pthread_self();
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;  // the handler does not return
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &action, &before_[i]);
}

FaultsAreFailures::~FaultsAreFailures() {
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &before_[i], nullptr);
}

#endif

}  // namespace dapt::on_host
