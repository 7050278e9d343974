// The parts of the module.
#pragma once

#include <pybind11/pybind11.h>

namespace dapt {

void bind_point_plans(pybind11::module_ m);
void bind_points_on_host(pybind11::module_ m);
void bind_token_plans(pybind11::module_ m);
void bind_tokens_on_host(pybind11::module_ m);

}  // namespace dapt
