// The gates and states of convolutional LSTM and GRU cells, and their gradients, for one row of pixels [pixel][channel].
// Every cell has four slots of channels: i, f, g, o of an LSTM; r, z, n and the state's share of n of a GRU.
#pragma once

#include <cstdint>

#include "isa.h"

namespace mer_fast {

constexpr int64_t kSlots = 4;

struct CellRows {
  const float* sums;             // what goes into the gates: slot s of pixel i at sums[i * sums_step + s * sums_slot]
  int64_t sums_step, sums_slot;
  const float *bias, *peephole;  // [slot][bias_slot] and, or null, [3][bias_slot]
  int64_t bias_slot;
  const float *h, *c;            // the states before, [pixel * state_step]; c: LSTM only
  float *h_next, *c_next;
  int64_t h_step, h_next_step, c_step;
  float* gates;                  // behind their activations, or null; slot s at s * bias_slot, pixels gates_step apart
  int64_t gates_step;
  int64_t pixels, channels;
};

// From the gates kept to the states after a step.
struct StateOfGates {
  const float* gates;
  int64_t gates_step, gates_slot;
  const float *h, *c;
  float *h_next, *c_next;
  int64_t h_step, h_next_step, c_step;
  int64_t pixels, channels;
};

struct CellGradient {
  const float* gates;
  int64_t gates_step, gates_slot;
  const float* peephole;  // or null
  const float *h, *c;     // the states before
  int64_t h_step, c_step;
  const float* grad;      // of the output
  int64_t grad_step;
  float *grad_h, *grad_c;  // of the states after; becomes what reaches the states before other than by convolution
  int64_t state_step;
  float* out;              // what went into the gates: slot s at s * gates_slot; of a GRU in the order n, r, z, state's share
  int64_t out_step;
  float *bias, *peepholes;  // sums so far, [slot][gates_slot] and [3][gates_slot]
  int64_t pixels, channels;
};

// The first is false where a sum is not finite.
#define MER_FAST_CELL_KERNELS                      \
  bool lstm_rows(const CellRows& f);               \
  bool gru_rows(const CellRows& f);                \
  void lstm_states(const StateOfGates& f);         \
  void gru_states(const StateOfGates& f);          \
  void lstm_gradient(const CellGradient& f);       \
  void gru_gradient(const CellGradient& f)

MER_FAST_DECLARE_KERNEL(MER_FAST_CELL_KERNELS)

}  // namespace mer_fast
