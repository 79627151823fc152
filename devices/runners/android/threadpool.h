// The size of ExecuTorch's thread pool.
#pragma once

#include <cstddef>
#include <cstdint>

#if __has_include(<executorch/extension/threadpool/threadpool.h>) && __has_include(<pthreadpool.h>)
#include <executorch/extension/threadpool/threadpool.h>
#else
// The Python package has the library and not this header; these are the functions of it that are called here.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool
#endif

namespace handheld {

// Sets it; false where the pool did not take it. It must come before any model is loaded: delegates keep the pool.
inline bool set_threads(int threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr) return false;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  const bool set = pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
#pragma GCC diagnostic pop
  return set && pool->get_thread_count() == static_cast<size_t>(threads);
}

}  // namespace handheld
