// What a schedule of launches wants of its surroundings, on a GPU: working memory in one allocation, and a launcher.
#pragma once

#include "launch.h"

namespace mer_fast {

// Pieces of one allocation, each aligned to 256 bytes; counted first, without memory.
class Pieces {
 public:
  explicit Pieces(char* memory) : memory_(memory) {}

  template <typename T>
  T* take(const char*, Index count) {
    T* piece = reinterpret_cast<T*>(memory_ + used_);
    used_ += divide_up(count * static_cast<Index>(sizeof(T)), 256) * 256;
    return piece;
  }
  Index used() const { return used_; }

 private:
  char* memory_;
  Index used_ = 0;
};

struct Launcher {
  const OnDevice& device;

  template <auto kKernel, typename... Arguments>
  void launch(Index blocks, int threads, int shared, int cluster, Arguments... arguments) {
    device.launch(kKernel, LaunchShape{blocks, threads, shared, cluster}, arguments...);
  }
  void zero(unsigned* data, Index count) { device.zero(data, count * static_cast<Index>(sizeof(unsigned))); }
};

// Runs Schedule(problem, launcher, memory) with memory on the device of `like`.
template <typename Schedule, typename Problem>
void run_schedule(const OnDevice& device, const Tensor& like, const Problem& problem) {
  Launcher launcher{device};
  Pieces counted(nullptr);
  Schedule(problem, launcher, counted);
  const Tensor workspace = torch::stable::new_empty(like, {counted.used()}, ScalarType::Byte);
  Pieces pieces(static_cast<char*>(workspace.mutable_data_ptr()));
  Schedule(problem, launcher, pieces).run();
}

}  // namespace mer_fast
