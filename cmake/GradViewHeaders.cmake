# Headers that only our own sources include: needed to build GradView, not to use it.
find_package(nlohmann_json REQUIRED)
find_path(RANDOM123_INCLUDE_DIR Random123/philox.h DOC "Random123" REQUIRED)
find_path(XTENSOR_BLAS_INCLUDE_DIR xtensor-blas/xlinalg.hpp DOC "xtensor-blas" REQUIRED)
find_path(XSIMD_INCLUDE_DIR xsimd/xsimd.hpp DOC "xsimd" REQUIRED)
find_path(CBLAS_INCLUDE_DIR cblas.h PATH_SUFFIXES openblas openblas-pthread DOC "C interface to BLAS" REQUIRED)

add_library(gradview_private_headers INTERFACE)
target_include_directories(gradview_private_headers SYSTEM INTERFACE ${RANDOM123_INCLUDE_DIR} ${XSIMD_INCLUDE_DIR}
                           ${XTENSOR_BLAS_INCLUDE_DIR} ${CBLAS_INCLUDE_DIR})
target_link_libraries(gradview_private_headers INTERFACE nlohmann_json::nlohmann_json)
target_compile_definitions(gradview_private_headers INTERFACE JSON_USE_IMPLICIT_CONVERSIONS=0)

if(GRADVIEW_BF16_FOUND)
  find_path(ONEDNN_INCLUDE_DIR oneapi/dnnl/dnnl.hpp DOC "oneDNN")
  if(ONEDNN_INCLUDE_DIR)
    add_library(gradview_onednn_headers INTERFACE)
    target_include_directories(gradview_onednn_headers SYSTEM INTERFACE ${ONEDNN_INCLUDE_DIR})
  elseif(GRADVIEW_BF16 STREQUAL "ON")
    message(FATAL_ERROR "gradview: oneDNN is here without its headers (libdnnl-dev; set ONEDNN_INCLUDE_DIR, or GRADVIEW_BF16=OFF)")
  else()
    set(GRADVIEW_BF16_FOUND OFF)
  endif()
endif()
