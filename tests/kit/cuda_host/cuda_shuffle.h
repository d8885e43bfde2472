// Warp shuffles, in segments of `width` lanes: a lane whose source is outside its segment gets its own value.
#pragma once

namespace mer_fast::host {

template <typename T>
T shuffle(unsigned mask, T value, int source, int width, Site site) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles move numbers of 4 or 8 bytes");
  using Raw = std::conditional_t<sizeof(T) == 4, unsigned, Bits>;
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) broken(site, "width is none of 1, 2, 4, 8, 16, 32");
  return same_bits<T>(static_cast<Raw>(warp_exchange(mask, same_bits<Raw>(value), source, site)));
}

inline int segment_begin(int width) { return lane_of_thread() & ~(width - 1); }
inline int inside(int source, int width) {
  const int begin = segment_begin(width);
  return source >= begin && source < begin + width ? source : lane_of_thread();
}

}  // namespace mer_fast::host

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, MER_FAST_SITE) {
  const int source = mer_fast::host::segment_begin(width) | (lane & (width - 1));
  return mer_fast::host::shuffle(mask, value, source, width, {"__shfl_sync", file, line});
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, MER_FAST_SITE) {
  const int source = mer_fast::host::inside(mer_fast::host::lane_of_thread() - static_cast<int>(delta), width);
  return mer_fast::host::shuffle(mask, value, source, width, {"__shfl_up_sync", file, line});
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, MER_FAST_SITE) {
  const int source = mer_fast::host::inside(mer_fast::host::lane_of_thread() + static_cast<int>(delta), width);
  return mer_fast::host::shuffle(mask, value, source, width, {"__shfl_down_sync", file, line});
}
// An earlier segment may be read, a later one gives the lane's own value.
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, MER_FAST_SITE) {
  const int lane = mer_fast::host::lane_of_thread(), other = lane ^ lanes;
  const int source = lanes >= 0 && other < mer_fast::host::segment_begin(width) + width ? other : lane;
  return mer_fast::host::shuffle(mask, value, source, width, {"__shfl_xor_sync", file, line});
}
