# Toolchain: the first clang there is, under the name that this system gives it.
find_program(GRADVIEW_CLANGXX NAMES clang++-14 clang++ clang++-15 clang++-16 clang++-17 clang++-18 clang++-19 clang++-20)
if(NOT GRADVIEW_CLANGXX)
  message(FATAL_ERROR "no clang++ on the PATH: scripts/setup dev installs it")
endif()
set(CMAKE_CXX_COMPILER ${GRADVIEW_CLANGXX})
