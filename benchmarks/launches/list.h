// What the programs that list an op's launches share: a launcher that prints, memory that is nowhere, problems line by line.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <sstream>
#include <string>

namespace mer_fast {

[[noreturn]] inline void fail(const std::string& reason) {
  std::fprintf(stderr, "%s\n", reason.c_str());
  std::exit(2);
}

// The kernel's name in "... [with auto kKernel = mer_fast::tvl1_solve<8>; ...".
inline std::string kernel_in(const std::string& signature) {
  const std::string mark = "kKernel = ";
  const size_t begin = signature.find(mark) + mark.size();
  std::string name = signature.substr(begin, signature.find_first_of(";]", begin) - begin);
  const std::string outer = "mer_fast::";
  for (size_t at; (at = name.find(outer)) != std::string::npos;) name.erase(at, outer.size());
  return name;
}

// Prints KERNEL BLOCKS THREADS SHARED CLUSTER, apart by tabs, where a launcher would launch.
struct Lister {
  template <auto kKernel, typename... Arguments>
  void launch(int64_t blocks, int threads, int shared, int cluster, Arguments...) {
    std::cout << kernel_in(__PRETTY_FUNCTION__) << '\t' << blocks << '\t' << threads << '\t' << shared << '\t' << cluster << '\n';
  }
  template <typename T>
  void zero(T*, int64_t) {}
};

struct Nowhere {
  template <typename T>
  T* take(const char*, int64_t) {
    return nullptr;
  }
};

// `lists` by element type: each reads the rest of its problem's line.
inline void list_problems(const std::map<std::string, void (*)(std::istream&)>& lists) {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string element;
    words >> element;
    const auto found = lists.find(element);
    if (found == lists.end()) fail("no element type " + element);
    found->second(words);
    std::cout << '\n';
  }
}

}  // namespace mer_fast
