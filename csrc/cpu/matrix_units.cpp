// torch.ops.mer_fast.matrix_units.
#include "matrix_units.h"

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CompositeExplicitAutograd, m) {
  m.impl("matrix_units", TORCH_BOX(&mer_fast::matrix_units));
}
