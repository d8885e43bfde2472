// What the stand-alone programs that run kernels on the host share: buffers of exact size, launches, standard input and
// output as arrays.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include "cuda_host.h"
// after the stand-in
#include "element.cuh"

namespace mer_fast {

[[noreturn]] inline void fail(const std::string& reason) {
  std::fprintf(stderr, "%s\n", reason.c_str());
  std::exit(2);
}

// `count` elements that end where the memory ends, `offset` elements behind an aligned address. Filled with ones in every
// bit (NaN in a float), or zeros: what a kernel leaves out differs between two runs.
template <typename Element>
class Buffer {
 public:
  Buffer(Index count, Index offset, bool ones) : bytes_(sizeof(Element) * count) {
    if (posix_memalign(&memory_, 64, sizeof(Element) * (count + offset)) != 0) fail("out of memory");
    data_ = static_cast<Element*>(memory_) + offset;
    std::memset(static_cast<void*>(data_), ones ? 0xFF : 0, bytes_);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(memory_); }

  Element* data() { return data_; }

  Buffer& read() {
    if (std::fread(data_, 1, bytes_, stdin) != bytes_) fail("standard input is too short");
    return *this;
  }
  void write() { std::fwrite(data_, 1, bytes_, stdout); }

 private:
  size_t bytes_;
  void* memory_ = nullptr;
  Element* data_;
};

// Runs every thread of every block, `backward` in the opposite order: the result must not depend on it.
template <typename... Parameters, typename... Arguments>
void launch(bool backward, void (*kernel)(Parameters...), Index blocks, int threads, Arguments... arguments) {
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  gridDim = {static_cast<unsigned>(blocks), 1, 1};
  const Index count = blocks * threads;
  for (Index k = 0; k < count; ++k) {
    const Index turn = backward ? count - 1 - k : k;
    blockIdx = {static_cast<unsigned>(turn / threads), 0, 0};
    threadIdx = {static_cast<unsigned>(turn % threads), 0, 0};
    kernel(arguments...);
  }
}

// Calls work(Element{}) for the element type of that name in torch.
template <typename Work>
void with_element(const std::string& name, const Work& work) {
  if (name == "uint8") return work(static_cast<unsigned char>(0));
  if (name == "float16") return work(Half{});
  if (name == "bfloat16") return work(Bfloat16{});
  if (name == "float32") return work(0.0f);
  if (name == "float64") return work(0.0);
  fail("unknown element type " + name);
}

}  // namespace mer_fast
