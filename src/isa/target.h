/* A target region: code between TARGET_BEGIN("features") and TARGET_END may use those instructions, whatever the
 * compiler's flags are. Include every system header before the region. */
#define FC_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET_BEGIN(features) FC_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END             _Pragma("clang attribute pop")
#else
#define TARGET_BEGIN(features) _Pragma("GCC push_options") FC_PRAGMA(GCC target(features))
#define TARGET_END             _Pragma("GCC pop_options")
#endif
