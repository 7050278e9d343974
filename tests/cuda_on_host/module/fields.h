// Fills an op's struct of arguments from Python and runs its launcher. Keyword arguments are its
// fields by name: arrays by address (0 or omitted for null, since numpy lacks bfloat16), dtypes by
// name.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <list>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "ops.h"

namespace dapt {

namespace py = pybind11;

inline Real real_named(const std::string& name) {
  if (name == "float64") return Real::f64;
  if (name == "float32") return Real::f32;
  if (name == "float16") return Real::f16;
  if (name == "bfloat16") return Real::bf16;
  throw std::invalid_argument("no dtype " + name);
}

/// Keyword arguments as the fields of an Args struct; each one must be taken.
class Fields {
 public:
  explicit Fields(const py::kwargs& given) : left_(py::dict(given)) {}

  template <class T>
  void take(const char* name, T& field) {
    if (!left_.contains(name)) return;
    const py::object value = left_.attr("pop")(name);
    if constexpr (std::is_pointer_v<T>) {
      field = reinterpret_cast<T>(value.cast<intptr_t>());
    } else if constexpr (std::is_same_v<T, Real>) {
      field = real_named(value.cast<std::string>());
    } else if constexpr (std::is_enum_v<T>) {
      field = static_cast<T>(value.cast<int>());
    } else {
      field = value.cast<T>();
    }
  }
  template <class T, size_t kMost>
  void take(const char* name, T (&list)[kMost]) {
    if (!left_.contains(name)) return;
    const auto values = left_.attr("pop")(name).cast<std::vector<int>>();
    if (values.size() > kMost) throw std::invalid_argument(std::string("too many ") + name);
    for (size_t i = 0; i < values.size(); ++i) list[i] = static_cast<T>(values[i]);
  }
  void finish() const {
    if (!left_.empty())
      throw std::invalid_argument("unknown fields: " + std::string(py::repr(left_)));
  }

 private:
  py::dict left_;
};

/// For use in a function with `fields` and `args`.
#define TAKE(field) fields.take(#field, args.field)

/// Calls launch(context) with scratch memory of exactly the requested size, so that a sanitizer
/// notices overruns, and filled with garbage.
template <class Launch>
void with_context(const Launch& launch) {
  std::list<std::vector<char>> memory;
  Context context;
  context.scratch = [&](size_t bytes) { return memory.emplace_back(bytes, char(0xFF)).data(); };
  launch(context);
}

/// Launches with the launcher's own plan.
template <class Args>
void run(const Args& args, void (*launcher)(const Args&, const Context&)) {
  with_context([&](const Context& context) { launcher(args, context); });
}

/// Launches with the given plan, if there is one.
template <class Args, class Plan>
void run(const Args& args, const std::optional<Plan>& plan,
         void (*with_plan)(const Args&, const Plan&, const Context&),
         void (*launcher)(const Args&, const Context&)) {
  with_context([&](const Context& context) {
    plan ? with_plan(args, *plan, context) : launcher(args, context);
  });
}

}  // namespace dapt
