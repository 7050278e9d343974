#include "cuda_on_host/fiber.h"

#include <cstdint>
#include <cstdlib>

#include "cuda_on_host/sanitizer.h"

// dapt_switch_stack(from, to) saves the callee-saved registers on the current stack and its stack
// pointer in *from, then continues on the stack `to`.
#if defined(__x86_64__)
asm(R"(
.text
.hidden dapt_switch_stack
.globl dapt_switch_stack
.type dapt_switch_stack, @function
dapt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size dapt_switch_stack, . - dapt_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.hidden dapt_switch_stack
.globl dapt_switch_stack
.type dapt_switch_stack, %function
dapt_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size dapt_switch_stack, . - dapt_switch_stack
)");
#endif

namespace dapt::on_host {
namespace {

constexpr std::uint64_t kCanary = 0x5ca1ab1e0ddba11;

Fiber* running = nullptr;
const void* caller_stack = nullptr;
std::size_t caller_stack_bytes = 0;
void* caller_sanitizer_stack = nullptr;

#if defined(__x86_64__) || defined(__aarch64__)
extern "C" void dapt_switch_stack(void** from, void* to);
void* caller_stack_pointer = nullptr;
#else
ucontext_t caller_context;
#endif

}  // namespace

void Fiber::prepare(std::byte* stack, std::size_t stack_bytes, void (*entry)()) {
  stack_ = stack;
  stack_bytes_ = stack_bytes;
  entry_ = entry;
  sanitizer_stack_ = nullptr;
  finished_ = false;
  __asan_unpoison_memory_region(stack, stack_bytes);
  *reinterpret_cast<std::uint64_t*>(stack) = kCanary;
#if defined(__x86_64__)
  // main() finds the stack as after a call, with its return address (none) at 8 modulo 16.
  void** frame = reinterpret_cast<void**>(stack + stack_bytes) - 8;
  for (int i = 0; i < 8; ++i) frame[i] = nullptr;
  frame[6] = reinterpret_cast<void*>(&Fiber::main);
  stack_pointer_ = frame;
#elif defined(__aarch64__)
  void** frame = reinterpret_cast<void**>(stack + stack_bytes) - 20;
  for (int i = 0; i < 20; ++i) frame[i] = nullptr;
  frame[11] = reinterpret_cast<void*>(&Fiber::main);  // x30, the address that ret jumps to
  stack_pointer_ = frame;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = stack_bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::main, 0);
#endif
}

void Fiber::resume() {
  running = this;
  __sanitizer_start_switch_fiber(&caller_sanitizer_stack, stack_, stack_bytes_);
#if defined(__x86_64__) || defined(__aarch64__)
  dapt_switch_stack(&caller_stack_pointer, stack_pointer_);
#else
  swapcontext(&caller_context, &context_);
#endif
  __sanitizer_finish_switch_fiber(caller_sanitizer_stack, nullptr, nullptr);
  running = nullptr;
}

void Fiber::suspend() {
  Fiber* self = running;
  // A finished fiber passes null instead of its sanitizer stack, which frees that stack.
  __sanitizer_start_switch_fiber(self->finished_ ? nullptr : &self->sanitizer_stack_, caller_stack,
                                 caller_stack_bytes);
#if defined(__x86_64__) || defined(__aarch64__)
  dapt_switch_stack(&self->stack_pointer_, caller_stack_pointer);
#else
  swapcontext(&self->context_, &caller_context);
#endif
  __sanitizer_finish_switch_fiber(self->sanitizer_stack_, nullptr, nullptr);
}

void Fiber::main() {
  __sanitizer_finish_switch_fiber(nullptr, &caller_stack, &caller_stack_bytes);
  running->entry_();
  running->finished_ = true;
  suspend();
  std::abort();  // a finished fiber is never resumed
}

bool Fiber::inside() { return running != nullptr; }

bool Fiber::overflowed() const { return *reinterpret_cast<std::uint64_t*>(stack_) != kCanary; }

}  // namespace dapt::on_host
