// The names and places of __shared__ variables, from the program's own table of symbols.
#include <cxxabi.h>
#include <elf.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "tracker.h"

namespace mer_fast::host {
namespace {

// "kernel<4>(float*)::tile" -> "tile"
std::string short_name(const char* symbol) {
  char* whole = abi::__cxa_demangle(symbol, nullptr, nullptr, nullptr);
  const std::string name = whole != nullptr ? whole : symbol;
  std::free(whole);
  const size_t last = name.rfind("::");
  return last == std::string::npos ? name : name.substr(last + 2);
}

std::vector<Variable> read_symbols() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  const std::string program{std::istreambuf_iterator<char>(file), {}};
  const auto at = [&](size_t offset) { return program.data() + offset; };
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(at(0));
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(at(header->e_shoff));
  std::vector<Variable> found;
  for (int k = 0; k < header->e_shnum; ++k) {
    if (sections[k].sh_type != SHT_SYMTAB) continue;
    const char* names = at(sections[sections[k].sh_link].sh_offset);
    const auto* symbols = reinterpret_cast<const Elf64_Sym*>(at(sections[k].sh_offset));
    for (size_t s = 0; s < sections[k].sh_size / sizeof(Elf64_Sym); ++s) {
      if (ELF64_ST_TYPE(symbols[s].st_info) != STT_TLS || symbols[s].st_size == 0) continue;
      found.push_back({short_name(names + symbols[s].st_name), symbols[s].st_value, symbols[s].st_size});
    }
  }
  return found;
}

}  // namespace

const std::vector<Variable>& static_variables() {
  static const std::vector<Variable> variables = read_symbols();
  return variables;
}

}  // namespace mer_fast::host
