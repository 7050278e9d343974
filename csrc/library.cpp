// The table of contents: every op of the library, in the order in which data flows through a model.
// Contracts stand in ops.h and in the docstrings of dapt_ext.
#include "backend.h"

STABLE_TORCH_LIBRARY(dapt, m) {
  // points -> patches
  m.def("fps(Tensor points, SymInt num_samples, Tensor? lengths=None, Tensor? starts=None, "
        "SymInt start=0, bool skip_near_origin=False) -> Tensor");
  m.def("knn(Tensor queries, Tensor points, SymInt k, Tensor? lengths=None) -> (Tensor, Tensor)");
  m.def("group(Tensor points, SymInt num_groups, SymInt group_size, Tensor? lengths=None, "
        "Tensor? starts=None, SymInt start=0) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("ball_query(Tensor queries, Tensor points, float radius, SymInt max_neighbors) -> Tensor");

  // patches <-> points
  m.def("gather(Tensor values, Tensor idx) -> Tensor");
  m.def("gather_backward(Tensor grad, Tensor idx, SymInt num_points, Tensor? weights=None) -> Tensor");
  m.def("interpolate(Tensor values, Tensor idx, Tensor weights) -> Tensor");

  // losses
  m.def("chamfer(Tensor a, Tensor b) -> (Tensor, Tensor, Tensor, Tensor)");
}
