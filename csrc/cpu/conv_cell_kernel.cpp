#include "conv_cell_kernel.h"

#include "gates.h"

namespace mer_fast::MER_ISA {

namespace {

inline bool all_zero(Vec zeros) {
  bool yes = true;
  for (int i = 0; i < kLanes; ++i) yes &= zeros[i] == 0;
  return yes;
}

template <bool kPeephole, bool kKeep>
bool lstm(const CellRows f) {
  Vec zeros{};
  for (int64_t c = 0; c < f.channels; c += kLanes) {
    Vec bias[kSlots], peephole[3];
    for (int s = 0; s < kSlots; ++s) bias[s] = load(f.bias + s * f.bias_slot + c);
    for (int s = 0; kPeephole && s < 3; ++s) peephole[s] = load(f.peephole + s * f.bias_slot + c);
    for (int64_t p = 0; p < f.pixels; ++p) {
      const float* sums = f.sums + p * f.sums_step + c;
      Vec i = load(sums) + bias[0], r = load(sums + f.sums_slot) + bias[1];
      Vec g = load(sums + 2 * f.sums_slot) + bias[2], o = load(sums + 3 * f.sums_slot) + bias[3];
      zeros += (i + r) * 0.0f + (g + o) * 0.0f;
      const Vec before = load(f.c + p * f.c_step + c);
      if (kPeephole) {
        i += peephole[0] * before;
        r += peephole[1] * before;
      }
      i = logistic(i), r = logistic(r), g = hyperbolic_tangent(g);
      const Vec cell = r * before + i * g;
      if (kPeephole) o += peephole[2] * cell;
      o = logistic(o);
      store(f.c_next + p * f.c_step + c, cell);
      store(f.h_next + p * f.h_next_step + c, o * hyperbolic_tangent(cell));
      if (kKeep) {
        float* gates = f.gates + p * f.gates_step + c;
        store(gates, i), store(gates + f.bias_slot, r), store(gates + 2 * f.bias_slot, g), store(gates + 3 * f.bias_slot, o);
      }
    }
  }
  return all_zero(zeros);
}

template <bool kKeep>
bool gru(const CellRows f) {
  Vec zeros{};
  for (int64_t c = 0; c < f.channels; c += kLanes) {
    Vec bias[kSlots];
    for (int s = 0; s < kSlots; ++s) bias[s] = load(f.bias + s * f.bias_slot + c);
    for (int64_t p = 0; p < f.pixels; ++p) {
      const float* sums = f.sums + p * f.sums_step + c;
      Vec r = load(sums) + bias[0], z = load(sums + f.sums_slot) + bias[1];
      Vec n = load(sums + 2 * f.sums_slot) + bias[2];
      const Vec q = load(sums + 3 * f.sums_slot) + bias[3];
      zeros += (r + z) * 0.0f + (n + q) * 0.0f;
      r = logistic(r), z = logistic(z), n = hyperbolic_tangent(n + r * q);
      const Vec before = load(f.h + p * f.h_step + c);
      store(f.h_next + p * f.h_next_step + c, n + z * (before - n));
      if (kKeep) {
        float* gates = f.gates + p * f.gates_step + c;
        store(gates, r), store(gates + f.bias_slot, z), store(gates + 2 * f.bias_slot, n), store(gates + 3 * f.bias_slot, q);
      }
    }
  }
  return all_zero(zeros);
}

template <bool kPeephole>
void lstm_back(const CellGradient f) {
  for (int64_t c = 0; c < f.channels; c += kLanes) {
    Vec peephole[3], bias[kSlots], peepholes[3] = {};
    for (int s = 0; s < kSlots; ++s) bias[s] = load(f.bias + s * f.gates_slot + c);
    for (int s = 0; kPeephole && s < 3; ++s) {
      peephole[s] = load(f.peephole + s * f.gates_slot + c);
      peepholes[s] = load(f.peepholes + s * f.gates_slot + c);
    }
    for (int64_t p = 0; p < f.pixels; ++p) {
      const float* gates = f.gates + p * f.gates_step + c;
      const Vec i = load(gates), r = load(gates + f.gates_slot), g = load(gates + 2 * f.gates_slot), o = load(gates + 3 * f.gates_slot);
      const Vec before = load(f.c + p * f.c_step + c), cell = r * before + i * g, bent = hyperbolic_tangent(cell);
      float *grad_h = f.grad_h + p * f.state_step + c, *grad_c = f.grad_c + p * f.state_step + c;
      const Vec grad = load(grad_h) + load(f.grad + p * f.grad_step + c);
      const Vec to_o = grad * bent * o * (1.0f - o);
      Vec down = load(grad_c) + grad * o * (1.0f - bent * bent);
      if (kPeephole) down += to_o * peephole[2];
      const Vec to_i = down * g * i * (1.0f - i), to_f = down * before * r * (1.0f - r), to_g = down * i * (1.0f - g * g);
      Vec back = down * r;
      if (kPeephole) {
        back += to_i * peephole[0] + to_f * peephole[1];
        peepholes[0] += to_i * before, peepholes[1] += to_f * before, peepholes[2] += to_o * cell;
      }
      store(grad_c, back), store(grad_h, Vec{});
      float* out = f.out + p * f.out_step + c;
      store(out, to_i), store(out + f.gates_slot, to_f), store(out + 2 * f.gates_slot, to_g), store(out + 3 * f.gates_slot, to_o);
      bias[0] += to_i, bias[1] += to_f, bias[2] += to_g, bias[3] += to_o;
    }
    for (int s = 0; s < kSlots; ++s) store(f.bias + s * f.gates_slot + c, bias[s]);
    for (int s = 0; kPeephole && s < 3; ++s) store(f.peepholes + s * f.gates_slot + c, peepholes[s]);
  }
}

}  // namespace

bool lstm_rows(const CellRows& f) {
  if (f.peephole) return f.gates ? lstm<true, true>(f) : lstm<true, false>(f);
  return f.gates ? lstm<false, true>(f) : lstm<false, false>(f);
}

bool gru_rows(const CellRows& f) { return f.gates ? gru<true>(f) : gru<false>(f); }

void lstm_states(const StateOfGates& f) {
  for (int64_t p = 0; p < f.pixels; ++p) {
    for (int64_t c = 0; c < f.channels; c += kLanes) {
      const float* gates = f.gates + p * f.gates_step + c;
      const Vec cell = load(gates + f.gates_slot) * load(f.c + p * f.c_step + c) + load(gates) * load(gates + 2 * f.gates_slot);
      store(f.c_next + p * f.c_step + c, cell);
      store(f.h_next + p * f.h_next_step + c, load(gates + 3 * f.gates_slot) * hyperbolic_tangent(cell));
    }
  }
}

void gru_states(const StateOfGates& f) {
  for (int64_t p = 0; p < f.pixels; ++p) {
    for (int64_t c = 0; c < f.channels; c += kLanes) {
      const float* gates = f.gates + p * f.gates_step + c;
      const Vec z = load(gates + f.gates_slot), n = load(gates + 2 * f.gates_slot);
      store(f.h_next + p * f.h_next_step + c, n + z * (load(f.h + p * f.h_step + c) - n));
    }
  }
}

void lstm_gradient(const CellGradient& f) { f.peephole ? lstm_back<true>(f) : lstm_back<false>(f); }

void gru_gradient(const CellGradient& f) {
  for (int64_t c = 0; c < f.channels; c += kLanes) {
    Vec bias[kSlots];
    for (int s = 0; s < kSlots; ++s) bias[s] = load(f.bias + s * f.gates_slot + c);
    for (int64_t p = 0; p < f.pixels; ++p) {
      const float* gates = f.gates + p * f.gates_step + c;
      const Vec r = load(gates), z = load(gates + f.gates_slot), n = load(gates + 2 * f.gates_slot), q = load(gates + 3 * f.gates_slot);
      float* grad_h = f.grad_h + p * f.state_step + c;
      const Vec grad = load(grad_h) + load(f.grad + p * f.grad_step + c);
      const Vec to_n = grad * (1.0f - z) * (1.0f - n * n);
      const Vec to_z = grad * (load(f.h + p * f.h_step + c) - n) * z * (1.0f - z);
      const Vec to_r = to_n * q * r * (1.0f - r), to_q = to_n * r;
      store(grad_h, grad * z);
      float* out = f.out + p * f.out_step + c;
      store(out, to_n), store(out + f.gates_slot, to_r), store(out + 2 * f.gates_slot, to_z), store(out + 3 * f.gates_slot, to_q);
      bias[0] += to_n, bias[1] += to_r, bias[2] += to_z, bias[3] += to_q;
    }
    for (int s = 0; s < kSlots; ++s) store(f.bias + s * f.gates_slot + c, bias[s]);
  }
}

}  // namespace mer_fast::MER_ISA
