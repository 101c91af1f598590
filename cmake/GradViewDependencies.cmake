# Libraries by role. Public: what our headers include. Private: what only our sources use; never exported by path.
find_package(Threads REQUIRED)
find_package(xtensor REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Boost REQUIRED COMPONENTS program_options)
find_package(ZLIB REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_path(RANDOM123_INCLUDE_DIR Random123/philox.h REQUIRED)
find_path(XTENSOR_BLAS_INCLUDE_DIR xtensor-blas/xlinalg.hpp REQUIRED)
find_path(CBLAS_INCLUDE_DIR cblas.h REQUIRED PATH_SUFFIXES openblas openblas-pthread)
find_library(CBLAS_LIBRARY NAMES openblas cblas REQUIRED)
find_library(LAPACK_LIBRARY NAMES lapack openblas REQUIRED)

add_library(gradview_public_dependencies INTERFACE)
target_link_libraries(gradview_public_dependencies INTERFACE xtensor Threads::Threads)

add_library(gradview_private_dependencies INTERFACE)
target_include_directories(gradview_private_dependencies SYSTEM INTERFACE ${RANDOM123_INCLUDE_DIR}
                           ${XTENSOR_BLAS_INCLUDE_DIR} ${CBLAS_INCLUDE_DIR})
target_link_libraries(gradview_private_dependencies INTERFACE fmt::fmt nlohmann_json::nlohmann_json
                      Boost::program_options Boost::headers ZLIB::ZLIB OpenSSL::Crypto ${LAPACK_LIBRARY} ${CBLAS_LIBRARY})
target_compile_definitions(gradview_private_dependencies INTERFACE JSON_USE_IMPLICIT_CONVERSIONS=0)
