// What the stand-alone programs that run kernels on the host share: their words, buffers of exact size, launches, standard
// input and output as arrays.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "runtime.h"
// after the stand-in
#include "element.cuh"

namespace mer_fast {

[[noreturn]] inline void fail(const std::string& reason) {
  std::fprintf(stderr, "%s\n", reason.c_str());
  std::exit(2);
}

// The command line: `usage` is the program's name and those of its words, after which comes the order of threads.
class Program {
 public:
  Program(int count, char** words, const std::string& usage) {
    std::istringstream names(usage);
    for (std::string name; names >> name;) names_.push_back(name);
    if (count != static_cast<int>(names_.size()) + 1) fail("usage: " + usage + " ORDER");
    values_.assign(words, words + count);
    host::set_order(values_.back());
  }
  Program(const Program&) = delete;
  ~Program() { std::fprintf(stderr, "%s\n", host::launches_text().c_str()); }

  const std::string& text(const std::string& name) const {
    for (size_t k = 1; k < names_.size(); ++k) {
      if (names_[k] == name) return values_[k];
    }
    fail(names_[0] + " has no word " + name);
  }
  Index integer(const std::string& name) const { return std::atoll(text(name).c_str()); }
  double number(const std::string& name) const { return std::atof(text(name).c_str()); }

 private:
  std::vector<std::string> names_, values_;
};

// `count` elements that end where the memory ends, `offset` elements behind an aligned address. Uninitialised: ones in
// every bit (NaN in a float), or zeros, so that what a kernel leaves out differs between two runs.
template <typename Element>
class Buffer {
 public:
  Buffer(const char* name, Index count, Index offset = 0) : bytes_(sizeof(Element) * count) {
    data_ = static_cast<Element*>(host::allocate(name, bytes_, sizeof(Element) * offset));
    std::memset(static_cast<void*>(data_), host::poison_with_ones() ? 0xFF : 0, bytes_);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { host::release(data_); }

  Element* data() { return data_; }

  Buffer& read() {  // from standard input
    if (std::fread(static_cast<void*>(data_), 1, bytes_, stdin) != bytes_) fail("standard input is too short");
    return written();
  }
  Buffer& zero() {
    std::memset(static_cast<void*>(data_), 0, bytes_);
    return written();
  }
  void write() {  // to standard output
    host::host_reads(data_, bytes_);
    std::fwrite(data_, 1, bytes_, stdout);
  }

 private:
  Buffer& written() {
    host::host_writes(data_, bytes_);
    return *this;
  }

  size_t bytes_;
  Element* data_;
};

// Runs a kernel: launch<kernel>({grid, block[, bytes of shared memory[, blocks of a cluster]]}, arguments...).
template <auto kKernel, typename... Arguments>
void launch(const host::LaunchShape& shape, Arguments... arguments) {
  const auto body = [=] { kKernel(arguments...); };
  const auto call = [](const void* all) { (*static_cast<decltype(&body)>(all))(); };
  host::run_grid(__PRETTY_FUNCTION__, shape, call, &body, sizeof(body));
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
