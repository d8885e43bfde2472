// What the tracker has found, a line each: the kernel, what happened, who, and which line of the source.
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <set>

#include "tracker.h"

namespace mer_fast::host {
namespace {

constexpr int kMost = 8;  // lines; what follows from them is noise
std::set<std::string> lines;

// "file.cuh:12", and where that was inlined from; "" without binutils.
std::string source_line(unsigned code) {
  char path[PATH_MAX] = {}, command[PATH_MAX + 64], text[512];
  if (readlink("/proc/self/exe", path, sizeof(path) - 1) < 0) return "";
  // the address of the call's last byte: the return address belongs to the next line
  const auto address = static_cast<unsigned long long>(code) - 1;
  std::snprintf(command, sizeof(command), "addr2line -s -i -e '%s' 0x%llx 2>/dev/null", path, address);
  FILE* tool = popen(command, "r");
  std::string told;
  while (tool != nullptr && std::fgets(text, sizeof(text), tool) != nullptr) {
    std::string line = text;
    line = line.substr(0, line.find_first_of(" \n"));
    if (line.find("cuda_") == 0 || line.find("driver.h") == 0 || line[0] == '?') continue;  // the stand-in's own
    if (told.find(line) == std::string::npos) told += (told.empty() ? "" : " from ") + line;
  }
  if (tool != nullptr) pclose(tool);
  return told.empty() ? "" : " (" + told + ")";
}

const char* verb(Access access) {
  return access == Access::read ? "reads" : access == Access::write ? "writes" : "changes by an atomic";
}

std::string sentence(Access access, const void* address, unsigned code) {
  return "kernel " + kernel_name() + ": " + name_of(*current->block, current->index) + " " + verb(access) + " " +
         memory_text(address) + source_line(code);
}

// Of a block that may have ended.
std::string name_of_stamp(Stamp stamp) {
  Block block = *current->block;
  const unsigned number = interval(interval_of(stamp)).block;
  block.id = dim3(number % gridDim.x, number / gridDim.x % gridDim.y, number / gridDim.x / gridDim.y);
  return name_of(block, thread_of(stamp));
}

void tell(const std::string& line) {
  if (!lines.insert(line).second) return;
  std::fprintf(stderr, "%s\n", line.c_str());
  if (static_cast<int>(lines.size()) == kMost) end_if_found();
}

void tell_race(const void* address, Access access, unsigned code, const Cell& cell, bool with_write) {
  const bool others = !with_write && cell.readers != Readers::one;
  const Stamp stamp = with_write ? cell.write : cell.read;
  tell(
      sentence(access, address, code) + ", a race: " + name_of_stamp(stamp) + (others ? " and others" : "") +
      (with_write ? cell.atomic ? " changed it by an atomic" : " wrote it" : " read it") +
      source_line(with_write ? cell.write_code : cell.read_code) + ", and no barrier is between");
}

}  // namespace

void found_race(const void* address, Access access, unsigned code, const Cell& cell, bool with_write) {
  const InRuntime inside;
  static std::set<std::pair<unsigned, unsigned>> told;  // places in the program
  const bool is_new = told.insert({code, with_write ? cell.write_code : cell.read_code}).second;
  if (is_new) tell_race(address, access, code, cell, with_write);
}

void found(const char* what, const void* address, Access access, unsigned code) {
  const InRuntime inside;
  static std::set<std::pair<std::string, unsigned>> told;
  if (told.insert({what, code}).second) tell(sentence(access, address, code) + ", " + what);
}

void found_fatal(const char* what, const void* address, Access access, unsigned code) {
  watched = nullptr;
  end_program(sentence(access, address, code) + ", " + what);
}

void end_if_found() {
  if (!lines.empty()) end_program("kernel " + kernel_name() + ": " + std::to_string(lines.size()) + " kinds of wrong access");
}

}  // namespace mer_fast::host
