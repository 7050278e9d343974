// A fiber: a function with its own stack that runs until it suspends itself.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

namespace dapt::on_host {

class Fiber {
 public:
  // Makes the fiber ready to call entry() on the given stack. entry must not throw.
  void prepare(std::byte* stack, std::size_t stack_bytes, void (*entry)());

  // Runs the fiber until it suspends itself or entry() returns. A fiber must not call it.
  void resume();

  // Returns control to the caller of resume().
  static void suspend();

  // Whether the caller runs on a fiber.
  static bool inside();

  bool finished() const { return finished_; }

  // Whether the stack has grown into its last bytes.
  bool overflowed() const;

 private:
  static void main();

#if defined(__x86_64__) || defined(__aarch64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  std::byte* stack_ = nullptr;
  std::size_t stack_bytes_ = 0;
  void (*entry_)() = nullptr;
  void* sanitizer_stack_ = nullptr;
  bool finished_ = false;
};

}  // namespace dapt::on_host
