# SPDX-License-Identifier: Apache-2.0
# Language, warnings, sanitizers. Asserts are part of the product: no build type defines NDEBUG.
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_C_FLAGS_DEBUG "-O0 -g3")
set(CMAKE_C_FLAGS_RELEASE "-O2")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g")
set(CMAKE_C_FLAGS_MINSIZEREL "-Os")

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

# Everything that Ashlar's own targets share; ashlar_* functions link it.
add_library(ashlar_flags INTERFACE)
target_compile_definitions(ashlar_flags INTERFACE
    _GNU_SOURCE
    _FILE_OFFSET_BITS=64
    ASHLAR_VERSION="${PROJECT_VERSION}"
    $<$<BOOL:${ASHLAR_MUTANTS}>:ASHLAR_MUTANTS=1>)
target_include_directories(ashlar_flags INTERFACE
    "${PROJECT_SOURCE_DIR}"
    "${PROJECT_SOURCE_DIR}/client/include")
target_compile_options(ashlar_flags INTERFACE
    -Wall -Wextra -Wshadow -Wvla -Wconversion -Wstrict-prototypes -Wmissing-prototypes
    -fno-omit-frame-pointer -fno-common
    $<$<BOOL:${ASHLAR_WERROR}>:-Werror>)
target_link_libraries(ashlar_flags INTERFACE Threads::Threads)

set(ashlar_sanitize "")
if(ASHLAR_ASAN)
    list(APPEND ashlar_sanitize address)
endif()
if(ASHLAR_UBSAN)
    list(APPEND ashlar_sanitize undefined)
endif()
if(ASHLAR_TSAN)
    list(APPEND ashlar_sanitize thread)
endif()
if(ashlar_sanitize)
    list(JOIN ashlar_sanitize "," ashlar_sanitize_csv)
    set(sanitize_flags -fsanitize=${ashlar_sanitize_csv} -fno-sanitize-recover=all)
    target_compile_options(ashlar_flags INTERFACE ${sanitize_flags})
    target_link_options(ashlar_flags INTERFACE ${sanitize_flags})
endif()
if(ASHLAR_FUZZ)
    target_compile_options(ashlar_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(ASHLAR_COVERAGE)
    target_compile_options(ashlar_flags INTERFACE --coverage -fprofile-update=atomic)
    target_link_options(ashlar_flags INTERFACE --coverage)
endif()
