// Atomics, fences and cached reads. One thread runs at a time, so a read, a change and a write are one step; the access
// tracker is told that they were an atomic.
#pragma once

#define MER_FAST_UNTRACKED __attribute__((noinline, no_sanitize("thread")))

namespace mer_fast::host {

template <typename T, typename Change>
MER_FAST_UNTRACKED T atomic_change(T* address, const void* code, Change change) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  atomic_access(address, sizeof(T), code);
  const T before = *address;
  *address = change(before);
  return before;
}

// Integers wrap around.
template <typename T>
T sum(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using Unsigned = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b));
  } else {
    return a + b;
  }
}

template <typename T>
T difference(T a, T b) {
  return sum<T>(a, sum<T>(~b, 1));
}

}  // namespace mer_fast::host

// The value's type follows the address's, as with CUDA's overloads.
template <typename T>
using MerFastValue = std::enable_if_t<true, T>;

#define MER_FAST_ATOMIC(Name, Requirement, result)                                                     \
  template <typename T>                                                                                \
  __attribute__((noinline)) T Name(T* address, MerFastValue<T> value) {                                \
    static_assert(Requirement, #Name " has no such type");                                             \
    const auto change = [=](T old) -> T { return result; };                                            \
    return mer_fast::host::atomic_change(address, __builtin_return_address(0), change);                \
  }
MER_FAST_ATOMIC(atomicAdd, std::is_arithmetic_v<T>, mer_fast::host::sum(old, value))
MER_FAST_ATOMIC(atomicSub, std::is_integral_v<T>&& sizeof(T) == 4, mer_fast::host::difference(old, value))
MER_FAST_ATOMIC(atomicExch, std::is_arithmetic_v<T>, (static_cast<void>(old), value))
MER_FAST_ATOMIC(atomicMin, std::is_integral_v<T>, value < old ? value : old)
MER_FAST_ATOMIC(atomicMax, std::is_integral_v<T>, old < value ? value : old)
MER_FAST_ATOMIC(atomicAnd, std::is_integral_v<T>, old & value)
MER_FAST_ATOMIC(atomicOr, std::is_integral_v<T>, old | value)
MER_FAST_ATOMIC(atomicXor, std::is_integral_v<T>, old ^ value)
MER_FAST_ATOMIC(atomicInc, (std::is_same_v<T, unsigned>), old >= value ? 0u : old + 1u)
MER_FAST_ATOMIC(atomicDec, (std::is_same_v<T, unsigned>), old == 0u || old > value ? value : old - 1u)
#undef MER_FAST_ATOMIC

template <typename T>
__attribute__((noinline)) T atomicCAS(T* address, MerFastValue<T> compare, MerFastValue<T> value) {
  static_assert(std::is_integral_v<T>, "atomicCAS has no such type");
  return mer_fast::host::atomic_change(
      address, __builtin_return_address(0), [=](T old) { return old == compare ? value : old; });
}

inline void __threadfence() { mer_fast::host::thread_fence(); }
inline void __threadfence_system() { mer_fast::host::thread_fence(); }
inline void __threadfence_block() {}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcg(const T* address) {
  return *address;
}
template <typename T>
T __ldca(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcg(T* address, T value) {
  *address = value;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}
