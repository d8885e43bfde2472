// What a schedule of csrc/cuda wants of its surroundings, in a program that runs kernels on the host.
#pragma once

#include <memory>

#include "driver.h"

namespace mer_fast {

struct Launcher {
  template <auto kKernel, typename... Arguments>
  void launch(Index blocks, int threads, int shared, int cluster, Arguments... arguments) {
    mer_fast::launch<kKernel>({blocks, threads, shared, cluster}, arguments...);
  }
  void zero(unsigned* data, Index count) {
    std::memset(data, 0, sizeof(unsigned) * count);
    host::host_writes(data, sizeof(unsigned) * count);
  }
};

// Every piece of working memory ends where its data ends.
struct Memory {
  struct Piece {
    virtual ~Piece() = default;
  };
  template <typename T>
  struct PieceOf : Piece {
    PieceOf(const char* name, Index count) : buffer(name, count) {}
    Buffer<T> buffer;
  };
  std::vector<std::unique_ptr<Piece>> kept;

  template <typename T>
  T* take(const char* name, Index count) {
    auto piece = std::make_unique<PieceOf<T>>(name, count);
    T* data = piece->buffer.data();
    kept.push_back(std::move(piece));
    return data;
  }
};

}  // namespace mer_fast
