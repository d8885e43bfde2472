// torch.ops.mer_fast.recurrent_conv2d on a CPU: a section whose norms are fixed, each image's states one after another.
#include "recurrent_conv2d.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <atomic>

namespace mer_fast {
namespace {

constexpr const char* kOp = "recurrent_conv2d";

class Inference {
 public:
  // `pool` windows of the output are reduced where each row of tiles holds whole ones, see pools().
  Inference(
      const Section& s, const std::vector<float>& scale, const std::vector<float>& shift, const std::array<int64_t, 2>& pool,
          float* output, bool exact)
      : s_(s), scale_(scale), shift_(shift), pool_(pool), output_(output),
        first_grid_(s.first_filter(exact), s.height, s.width, s.padded_channels(), s.padded_maps(), shares(s)),
        grid_(s.filter(exact), s.height, s.width, s.padded_maps(), s.padded_maps(), shares(s)),
        first_bank_(bank_for(first_grid_.filter, s.maps, s.channels, false)),
        banks_(static_cast<size_t>(s.recurrent_weights.size(0)), bank_for(grid_.filter, s.maps, s.maps, false)) {
    shared_arena().reserve<float>({first_bank_.elements() + banks_[0].elements() * s.recurrent_weights.size(0)});
    first_bank_.place(shared_arena());
    fill_bank(first_bank_, s.first_weight(), s.maps, s.channels, first_grid_.filter.taps(), false);
    for (size_t k = 0; k < banks_.size(); ++k) {
      banks_[k].place(shared_arena());
      fill_bank(banks_[k], s.weight(static_cast<int64_t>(k)), s.maps, s.maps, grid_.filter.taps(), false);
    }
  }

  static bool pools(const Filter& filter, const std::array<int64_t, 2>& pool) {
    return pool[0] * pool[1] == 1 || (filter.m > 0 && filter.m % pool[0] == 0);
  }

  // False where something was not finite, which Winograd's transforms spread.
  bool run() {
    const Band first(first_grid_, s_.padded_channels(), first_bank_.widest()), rest(grid_, s_.padded_maps(), banks_[0].widest());
    const int64_t turned = 2 * grid_.width * s_.padded_maps() * std::max(grid_.filter.m, 1);  // and its windows
    slots_.reserve(first.elements() + rest.elements() + turned + 64, image_elements(), s_.batch);
    for (int64_t i = 0; i < slots_.count(); ++i) {
      workers_.push_back({first, rest, nullptr});
      Worker& w = workers_.back();
      w.first.place(slots_.arena(i));
      w.rest.place(slots_.arena(i));
      w.turned = slots_.arena(i).take<float>(turned);
      if (slots_.holds(i, s_.batch)) images_.push_back(place_image(slots_.arena(i)));
    }
    if (s_.batch >= slots_.count()) {
      slots_.share(s_.batch, [&](int64_t slot, int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end && goes_on(); ++n) run_image(n, images_[static_cast<size_t>(slot)], slot);
      });
    } else {
      for (int64_t n = 0; n < s_.batch && goes_on(); ++n) run_image(n, images_[0], -1);
    }
    return finite_;
  }

 private:
  struct Worker {
    Band first, rest;
    float* turned;
  };
  struct Image {
    Map input, states[2];
    float* fed_forward;  // the convolved input, for every step
  };

  // By the formula, what is not finite stays where it belongs.
  bool goes_on() const { return finite_ || !grid_.filter.m; }

  // Bands of an image: as many as threads, where these are more than the images.
  int64_t shares(const Section& s) const { return s.batch < slots_.count() ? slots_.count() : 1; }

  int64_t image_elements() const {
    const int64_t maps = grid_.map_elements(s_.padded_maps());
    return first_grid_.map_elements(s_.padded_channels()) + 2 * maps + (s_.fed ? 0 : s_.plane() * s_.padded_maps()) + 64;
  }
  Image place_image(Arena& arena) const {
    const auto map = [&](const Grid& grid, int64_t channels) {
      return Map(arena.take<float>(grid.map_elements(channels)), grid, channels);
    };
    Image image{map(first_grid_, s_.padded_channels()), {map(grid_, s_.padded_maps()), map(grid_, s_.padded_maps())}, nullptr};
    image.input.clear_border();
    for (Map& state : image.states) state.clear_border();
    if (!s_.fed) image.fed_forward = arena.take<float>(s_.plane() * s_.padded_maps());
    return image;
  }

  // By one slot alone, or (-1) by all of them.
  void run_image(int64_t n, Image& image, int64_t slot) {
    const auto all = [&](int64_t items, const auto& some) { slot >= 0 ? some(slot, 0, items) : slots_.share(items, some); };
    all(s_.height, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) s_.input_row(n, h, image.input.pixels(h));
    });
    for (int64_t k = 0; k <= s_.steps; ++k) {
      all((k == 0 ? first_grid_ : grid_).bands, [&](int64_t by, int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) run_band(n, image, workers_[static_cast<size_t>(by)], k, b);
      });
    }
  }

  void run_band(int64_t n, Image& image, Worker& w, int64_t k, int64_t b) {
    const Map& maps = k == 0 ? image.input : image.states[(k + 1) % 2];
    const int64_t channels = k == 0 ? s_.padded_channels() : s_.padded_maps();
    const Bank& bank = k == 0 ? first_bank_ : banks_[static_cast<size_t>(s_.weight_of(k - 1))];
    Band& band = k == 0 ? w.first : w.rest;
    const bool halves = (k == 0 ? first_grid_ : grid_).filter.m && (k > 0 || s_.fed);
    const auto all = [&](int64_t) { return Depths{0, channels}; };
    band.begin(b);
    band.take(maps.band(band.first_tile_row()), maps.row_step(), channels, 0);
    for (int64_t block = 0; block < bank.blocks(); ++block) {
      const int64_t first = bank.first(block), width = bank.width(block);
      if (halves) {
        band.convolve_halves(bank, block, all, [&](int64_t h, int64_t rows, const TileOutputs& f) { finish(n, k, image, w, first, h,
            rows, f); });
        continue;
      }
      band.convolve(bank, block, all, [&](int64_t h, int64_t rows, const float* values, int64_t row_step) {
        for (int64_t r = 0; r < rows; ++r) finish_row(n, k, image, w, first, h + r, Pixels{values + r * row_step, width}, width);
      });
    }
  }

  // Where a state goes: to the map of the next step, or, the last one, by way of `turned` to the output.
  bool is_last(int64_t k) const { return k == s_.steps; }
  const float* input_after(int64_t k, const Image& image, int64_t h, int64_t first) const {
    return s_.fed && !is_last(k) ? image.input.pixels(h) + first : nullptr;
  }
  float* forward_row(const Image& image, int64_t h, int64_t first) const {
    return s_.fed ? nullptr : image.fed_forward + h * s_.width * s_.padded_maps() + first;
  }
  void write(int64_t n, int64_t h, int64_t first, int64_t width, const float* pixels) {
    if (first >= s_.maps) return;
    const int64_t wide = s_.width / pool_[1], plane = s_.height / pool_[0] * wide;
    const PlaneRow turned{pixels, output_ + (n * s_.maps + first) * plane + h * wide, std::min(width, s_.maps - first), wide, plane, width};
    MER_FAST_DISPATCH(planes_from_pixels, turned);
  }

  // Some rows of state k, from the convolution before its last transform.
  void finish(int64_t n, int64_t k, Image& image, Worker& w, int64_t first, int64_t h, int64_t rows, TileOutputs f) {
    const int64_t maps = s_.padded_maps(), width = f.channels;
    f.out = is_last(k) ? w.turned : image.states[k % 2].pixels(h) + first;
    f.row_step = is_last(k) ? s_.width * width : image.states[k % 2].row_step();
    f.pixel_step = is_last(k) ? width : maps;
    const TileStates states{scale_.data() + k * maps + first, shift_.data() + k * maps + first, forward_row(image, h, first),
                            input_after(k, image, h, first), s_.width * maps, maps, image.input.row_step(), maps, rows, s_.width};
    if (!MER_FAST_DISPATCH(map_states, (k == 0 ? first_grid_ : grid_).filter.m, f, states)) finite_ = false;
    for (int64_t r = 0; is_last(k) && r + pool_[0] <= rows; r += pool_[0]) {
      const float* row = w.turned + r * f.row_step;
      if (pool_[0] * pool_[1] > 1) {
        float* windows = w.turned + grid_.filter.m * f.row_step;
        MER_FAST_DISPATCH(pool_pixels, {row, f.row_step, width, pool_[0], pool_[1], s_.width / pool_[1], width, windows});
        row = windows;
      }
      write(n, (h + r) / pool_[0], first, width, row);
    }
  }

  void finish_row(int64_t n, int64_t k, Image& image, Worker& w, int64_t first, int64_t h, Pixels z, int64_t width) {
    const int64_t maps = s_.padded_maps();
    float* forward = forward_row(image, h, first);
    for (int64_t i = 0; k == 0 && forward && i < s_.width; ++i) std::copy_n(z.data + i * z.step, width, forward + i * maps);
    float* out = is_last(k) ? w.turned : image.states[k % 2].pixels(h) + first;
    const StateRows rows{z, {k > 0 ? forward : nullptr, maps}, {input_after(k, image, h, first), maps}, scale_.data() + k * maps + first,
                         shift_.data() + k * maps + first, out, is_last(k) ? width : maps, s_.width, width};
    if (!MER_FAST_DISPATCH(state_rows, rows)) finite_ = false;
    clear_padding(out, rows.out_step, s_.width, s_.maps - first, width);
    if (is_last(k)) write(n, h, first, width, w.turned);
  }

  Slots slots_;
  const Section& s_;
  const std::vector<float>&scale_, &shift_;
  std::array<int64_t, 2> pool_;
  float* output_;
  Grid first_grid_, grid_;
  Bank first_bank_;
  std::vector<Bank> banks_;
  std::vector<Worker> workers_;
  std::vector<Image> images_;
  std::atomic<bool> finite_{true};
};

// Max-pool of whole planes, of sides that no row of tiles holds.
void pool_planes(const float* in, int64_t planes, int64_t height, int64_t width, const std::array<int64_t, 2>& pool, float* out) {
  const int64_t high = height / pool[0], wide = width / pool[1];
  torch::stable::parallel_for(0, planes, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * high * wide; i < end * high * wide; ++i) {
      const float* window = in + i / (high * wide) * height * width + i / wide % high * pool[0] * width + i % wide * pool[1];
      float most = *window;
      for (int64_t k = 0; k < pool[0] * pool[1]; ++k) {
        const float x = window[k / pool[1] * width + k % pool[1]];
        if (x > most || x != x) most = x;
      }
      out[i] = most;
    }
  });
}

Tensor recurrent_conv2d(
    const Tensor& input, const Tensor& input_weight, const Tensor& recurrent_weights, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& shift, int64_t steps, const std::string& injection, const std::vector<int64_t>& window, bool exact) {
  const Section s(kOp, input, input_weight, recurrent_weights, steps, injection);
  s.check_norm("scale", scale);
  s.check_norm("shift", shift);
  MER_FAST_CHECK(
      window.size() == 2 && window[0] >= 1 && window[1] >= 1 && window[0] <= std::max<int64_t>(s.height,
          1) && window[1] <= std::max<int64_t>(s.width, 1),
      kOp, ": pool must be two sides that fit into the input");
  const std::array<int64_t, 2> pool{window[0], window[1]}, none{1, 1};
  Tensor output = torch::stable::new_empty(s.input, {s.batch, s.maps, s.height / pool[0], s.width / pool[1]});
  if (s.empty()) return output;
  const std::vector<float> scales = s.of_norm(scale, 1), shifts = s.of_norm(shift, 0);
  float* out = static_cast<float*>(output.mutable_data_ptr());
  if (!exact && Inference::pools(s.filter(false), pool) && Inference(s, scales, shifts, pool, out, false).run()) return output;
  const bool pooled = pool != none;
  Tensor whole = pooled ? torch::stable::new_empty(s.input, {s.batch, s.maps, s.height, s.width}) : output;
  float* all = static_cast<float*>(whole.mutable_data_ptr());
  if (exact || Inference::pools(s.filter(false), pool) || !Inference(s, scales, shifts, none, all, false).run()) {
    Inference(s, scales, shifts, none, all, true).run();
  }
  if (pooled) pool_planes(all, s.batch * s.maps, s.height, s.width, pool, out);
  return output;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("recurrent_conv2d", TORCH_BOX(&mer_fast::recurrent_conv2d));
}
