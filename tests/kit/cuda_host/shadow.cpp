// Memory of the tracked build: one arena for all buffers and dynamic shared memory, so that an address leads straight to
// its cell; what lies between buffers has cells that belong to nothing.
#include <sys/mman.h>

#include <algorithm>
#include <deque>

#include "tracker.h"

namespace mer_fast::host {
namespace {

constexpr size_t kAlignment = 256;         // cudaMalloc's
constexpr size_t kGap = 64 * 1024;         // between buffers
constexpr size_t kSharedSlot = 512 * 1024;  // a block's dynamic shared memory and a gap
constexpr int kSlots = 16;

struct Region {
  std::string name;
  unsigned char* begin;
  size_t bytes;
};
std::vector<Region> regions;
unsigned char* next_free = nullptr;
std::deque<Cell> bytes_cells;  // four for each split cell
std::vector<Cell> static_cells;  // by rank
size_t shared_bytes[kSlots] = {};
Span parameters;

void* reserve(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) end_program("no memory for the access tracker");
  return memory;
}

void make_arena() {
  if (arena != nullptr) return;
  arena = static_cast<unsigned char*>(reserve(kArena));
  arena_cells = static_cast<Cell*>(reserve(kArena / 4 * sizeof(Cell)));
  next_free = arena + kSlots * kSharedSlot;
}

Cell& cell_at(const unsigned char* address) { return arena_cells[(address - arena) / 4]; }

// Gives the bytes from `begin` on to a buffer or a block's shared memory, or takes them back.
void mark(unsigned char* begin, size_t bytes, Memory memory, int rank) {
  for (unsigned char* at = begin - (begin - arena) % 4; at < begin + bytes; at += 4) {
    Cell& cell = cell_at(at) = Cell{};
    cell.memory = memory;
    cell.rank = static_cast<uint8_t>(rank);
    for (int k = 0; k < 4; ++k) cell.bytes |= at + k >= begin && at + k < begin + bytes ? 1u << k : 0u;
  }
}

// Static shared memory may begin inside a cell.
size_t misaligned() { return reinterpret_cast<uintptr_t>(static_shared().begin) % 4; }
size_t cells_of_statics() { return static_shared().bytes > 0 ? (misaligned() + static_shared().bytes + 3) / 4 : 0; }

void mark_statics(Cell* cells, int rank) {
  for (const Variable& variable : static_variables()) {
    for (size_t k = 0; k < variable.bytes; ++k) {
      const size_t place = misaligned() + variable.offset + k;
      cells[place / 4].memory = Memory::shared;
      cells[place / 4].rank = static_cast<uint8_t>(rank);
      cells[place / 4].bytes |= 1u << place % 4;
    }
  }
}

void for_bytes(unsigned char* begin, size_t bytes, void (*work)(Cell&, unsigned char*)) {
  for (unsigned char* at = begin - (begin - arena) % 4; at < begin + bytes; at += 4) {
    Cell& cell = cell_at(at);
    if (!cell.split) work(cell, std::max(at, begin));
    for (int k = 0; k < 4 && cell.split; ++k) {
      if (at + k >= begin && at + k < begin + bytes) work(bytes_of(cell)[k], at + k);
    }
  }
}

// "static shared memory tile + 12": the variable that the address is in, or behind.
std::string static_text(size_t offset) {
  const Variable* nearest = nullptr;
  for (const Variable& variable : static_variables()) {
    if (variable.offset <= offset && (nearest == nullptr || variable.offset > nearest->offset)) nearest = &variable;
  }
  return nearest == nullptr ? "" : " " + nearest->name + " + " + std::to_string(offset - nearest->offset);
}

}  // namespace

unsigned char* arena = nullptr;
Cell* arena_cells = nullptr;

void* allocate(const char* name, size_t bytes, size_t before) {
  make_arena();
  unsigned char* memory = next_free + before;
  const size_t used = (before + bytes + kAlignment - 1) / kAlignment * kAlignment + kGap;
  if (next_free + used > arena + kArena) end_program("the buffers together are larger than the tracker's arena");
  next_free += used;
  mark(memory, bytes, Memory::global, 0);
  regions.push_back({std::string("buffer ") + name, memory, bytes});
  return memory;
}

void release(void* memory) {
  const auto found = std::find_if(regions.begin(), regions.end(), [&](const Region& r) { return r.begin == memory; });
  mark(found->begin, found->bytes, Memory::nothing, 0);
  regions.erase(found);
}

unsigned char* allocate_shared(int rank, size_t bytes) {
  make_arena();
  unsigned char* memory = arena + rank * kSharedSlot;
  if (shared_bytes[rank] != bytes) {  // cells of the same shape serve again: their stamps tell them apart
    mark(memory, shared_bytes[rank], Memory::nothing, 0);
    mark(memory, bytes, Memory::shared, rank);
    shared_bytes[rank] = bytes;
  }
  return memory;
}

void release_shared(int, unsigned char*) {}

void host_writes(void* memory, size_t bytes) {
  for_bytes(static_cast<unsigned char*>(memory), bytes, [](Cell& cell, unsigned char*) { cell.write = kByHost; });
}

void host_reads(const void* memory, size_t bytes) {
  auto* begin = const_cast<unsigned char*>(static_cast<const unsigned char*>(memory));
  for_bytes(begin, bytes, [](Cell& cell, unsigned char* at) {
    if (cell.write == 0) end_program(memory_text(at) + " was never written, and is read by the host");
  });
}

void grid_begins(const void* memory, size_t bytes, int blocks) {
  parameters = {static_cast<unsigned char*>(const_cast<void*>(memory)), bytes};
  const size_t wanted = cells_of_statics() * cluster.blocks.size();
  for (size_t rank = static_cells.size() / std::max<size_t>(1, cells_of_statics()); static_cells.size() < wanted; ++rank) {
    static_cells.resize(static_cells.size() + cells_of_statics());
    mark_statics(static_cells.data() + static_cells.size() - cells_of_statics(), static_cast<int>(rank));
  }
  begin_order(blocks);
}

void grid_ends() {
  parameters = {};
  end_if_found();
}

void cluster_begins() { begin_cluster_order(); }

Cell* static_cell(const void* address) {
  const Span& statics = static_shared();
  auto* at = static_cast<const unsigned char*>(address);
  for (const Block& block : cluster.blocks) {  // another block's lies apart while this one's is in its place
    const unsigned char* begin = &block == current->block ? statics.begin : block.statics;
    if (!Span{const_cast<unsigned char*>(begin), statics.bytes}.holds(at)) continue;
    return &static_cells[block.rank * cells_of_statics() + (at - begin + misaligned()) / 4];
  }
  return nullptr;
}

Cell* bytes_of(Cell& cell) { return reinterpret_cast<Cell*>(cell.write); }

Cell* split(Cell& cell) {
  Cell* first = nullptr;
  for (int k = 0; k < 4; ++k) {
    bytes_cells.push_back(cell);
    bytes_cells.back().bytes = cell.bytes >> k & 1u;
    if (k == 0) first = &bytes_cells.back();
  }
  cell.split = 1;
  cell.write = reinterpret_cast<Stamp>(first);
  return first;
}

bool is_readable(const void* address) {
  auto* at = static_cast<const unsigned char*>(address);
  return (at >= __executable_start && at < end) || parameters.holds(address);
}

std::string memory_text(const void* address) {
  auto* at = const_cast<unsigned char*>(static_cast<const unsigned char*>(address));
  const auto text = [&](const std::string& name, const unsigned char* begin) {
    const long long distance = at - begin;
    return name + (distance < 0 ? " - " : " + ") + std::to_string(distance < 0 ? -distance : distance);
  };
  for (const Block& block : cluster.blocks) {
    const bool mine = current != nullptr && current->block == &block;
    const std::string whose = mine ? "" : " of the cluster's block " + std::to_string(block.rank);
    if (block.dynamic != nullptr && Span{block.dynamic, kSharedSlot}.holds(at)) {
      return text("dynamic shared memory", block.dynamic) + whose;
    }
    unsigned char* statics = mine ? static_shared().begin : block.statics;
    if (Span{statics, static_shared().bytes}.holds(at)) return "static shared memory" + static_text(at - statics) + whose;
  }
  const Region* nearest = nullptr;
  for (const Region& region : regions) {
    const auto gap = [&](const Region& r) {
      return at < r.begin ? r.begin - at : std::max<ptrdiff_t>(0, at - (r.begin + r.bytes));
    };
    if (nearest == nullptr || gap(region) < gap(*nearest)) nearest = &region;
  }
  if (nearest == nullptr || at < arena || at >= arena + kArena) return "an address of no buffer";
  return text(nearest->name + " (" + std::to_string(nearest->bytes) + " bytes)", nearest->begin);
}

}  // namespace mer_fast::host
