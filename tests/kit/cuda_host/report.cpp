// Errors in words: which kernel, which thread, which line; and the mapping of another block's memory, with its own.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "runtime.h"

namespace mer_fast::host {
namespace {

std::string text_of(const dim3& at, const dim3& extent) {
  std::string text = std::to_string(at.x);
  if (extent.y == 1 && extent.z == 1) return text;
  text = "(" + text + ", " + std::to_string(at.y);
  if (extent.z > 1) text += ", " + std::to_string(at.z);
  return text + ")";
}

}  // namespace

std::string name_of(const Block& block, int thread) {
  return "thread " + text_of(block.threads[thread].id, blockDim) + " of block " + text_of(block.id, gridDim);
}

std::string text_of(const Site& site) {
  const std::string path = site.file;
  return std::string(site.what) + " (" + path.substr(path.rfind('/') + 1) + ":" + std::to_string(site.line) + ")";
}

void broken(Site site, const char* reason) {
  watched = nullptr;
  const std::string who = name_of(*current->block, current->index);
  end_program("kernel " + kernel_name() + ": " + who + " at " + text_of(site) + ": " + reason);
}

void end_program(const std::string& reason) {
  std::fflush(stdout);
  std::fprintf(stderr, "%s\n", reason.c_str());
  std::fflush(stderr);
  _exit(3);
}

void* cluster_map(void* mine, unsigned rank) {
  const InRuntime inside;
  const Block& block = *current->block;
  const Site site{"cluster_map", "block.cuh", 0};
  if (rank >= cluster.blocks.size()) broken(site, "the cluster has no such block");
  const Block& other = cluster.blocks[rank];
  auto* memory = static_cast<unsigned char*>(mine);
  if (static_shared().holds(mine)) return rank == cluster_rank() ? mine : other.statics + (memory - static_shared().begin);
  if (Span{block.dynamic, block.dynamic_bytes + 1}.holds(mine)) return other.dynamic + (memory - block.dynamic);
  broken(site, "the address is not in this block's shared memory");
}

}  // namespace mer_fast::host
