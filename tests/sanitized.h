/* SPDX-License-Identifier: Apache-2.0 */
/* sanitized.h - whether this build has AddressSanitizer or ThreadSanitizer. */
#ifndef ZERO_TESTS_SANITIZED_H
#define ZERO_TESTS_SANITIZED_H

/* gcc defines macros, clang has __has_feature. */
#if !defined(__has_feature)
#define __has_feature(feature) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define ADDRESS_SANITIZED 1
#else
#define ADDRESS_SANITIZED 0
#endif

#if ADDRESS_SANITIZED || defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#endif
