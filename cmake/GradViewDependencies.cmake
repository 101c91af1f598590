# What a program that links GradView needs, by role; read by our build and by the installed package alike.
#   in our headers:  xtensor, Threads::Threads
#   at link time:    gradview::private_dependencies (used by our sources only; found again on the user's machine)
#                    gradview::onednn, by the float library, unless GRADVIEW_BF16 is OFF; GRADVIEW_BF16_FOUND
find_package(Threads REQUIRED)
find_package(xtensor REQUIRED)
find_package(fmt REQUIRED)
set(GRADVIEW_PROGRAM_LIBRARIES)
if(NOT GRADVIEW_CORE_ONLY)
  find_package(ZLIB REQUIRED)
  find_package(OpenSSL REQUIRED COMPONENTS Crypto)
  find_package(Boost QUIET CONFIG COMPONENTS program_options)  # CMake 4 has no module for it any more
  if(NOT Boost_FOUND)
    find_package(Boost REQUIRED COMPONENTS program_options)
  endif()
  set(GRADVIEW_PROGRAM_LIBRARIES Boost::program_options ZLIB::ZLIB OpenSSL::Crypto)
endif()

# OpenBLAS brings LAPACK along; two variants of BLAS in one program are never mixed.
find_library(GRADVIEW_CBLAS_LIBRARY NAMES openblas cblas DOC "BLAS with the C interface")
if(NOT GRADVIEW_CBLAS_LIBRARY)
  message(FATAL_ERROR "gradview: neither libopenblas nor libcblas was found (set GRADVIEW_CBLAS_LIBRARY)")
endif()
set(GRADVIEW_BLAS_LIBRARIES ${GRADVIEW_CBLAS_LIBRARY})
if(NOT GRADVIEW_CBLAS_LIBRARY MATCHES "openblas")
  find_library(GRADVIEW_LAPACK_LIBRARY NAMES lapack REQUIRED DOC "LAPACK")
  list(PREPEND GRADVIEW_BLAS_LIBRARIES ${GRADVIEW_LAPACK_LIBRARY})
endif()

if(NOT TARGET gradview::private_dependencies)
  add_library(gradview::private_dependencies INTERFACE IMPORTED)
  target_link_libraries(gradview::private_dependencies INTERFACE fmt::fmt ${GRADVIEW_PROGRAM_LIBRARIES}
                        ${GRADVIEW_BLAS_LIBRARIES})
endif()

set(GRADVIEW_BF16_FOUND OFF)
if(NOT GRADVIEW_BF16 STREQUAL "OFF")
  find_library(GRADVIEW_ONEDNN_LIBRARY NAMES dnnl DOC "oneDNN")
  if(GRADVIEW_ONEDNN_LIBRARY)
    set(GRADVIEW_BF16_FOUND ON)
    if(NOT TARGET gradview::onednn)
      add_library(gradview::onednn INTERFACE IMPORTED)
      target_link_libraries(gradview::onednn INTERFACE ${GRADVIEW_ONEDNN_LIBRARY} ${CMAKE_DL_LIBS})
    endif()
  elseif(GRADVIEW_BF16 STREQUAL "ON")
    message(FATAL_ERROR "gradview: oneDNN was not found (libdnnl-dev; set GRADVIEW_ONEDNN_LIBRARY, or GRADVIEW_BF16=OFF)")
  endif()
endif()
