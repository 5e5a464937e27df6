/* Owns whether this build is instrumented by a sanitizer of addresses or threads: tests are then shorter, as they look for bad accesses and are slow. */
#ifndef NM_TESTS_INSTRUMENTED_H
#define NM_TESTS_INSTRUMENTED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NM_INSTRUMENTED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define NM_INSTRUMENTED 1
#endif
#endif
#ifndef NM_INSTRUMENTED
#define NM_INSTRUMENTED 0
#endif

#endif
