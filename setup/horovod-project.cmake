# Included at the end of project() in Horovod 0.28.1 and in the projects it contains.

# Horovod sets CMAKE_CXX_STANDARD to 14 and strips -std= from CXXFLAGS; torch >= 2.1 needs C++17.
# So "14" is spelled "17".
set(CMAKE_CXX14_STANDARD_COMPILE_OPTION "-std=c++17")
set(CMAKE_CXX14_EXTENSION_COMPILE_OPTION "-std=gnu++17")

# No debug information (Horovod turns the -O2 into -O3): a quicker build and a wheel of a tenth of the size.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -DNDEBUG")

# torch's libraries are found beside the wheel, wherever it is installed, not in the environment that built it.
set(CMAKE_BUILD_WITH_INSTALL_RPATH TRUE)
set(CMAKE_INSTALL_RPATH "$ORIGIN/../../torch/lib")

# Without CUDA: Horovod asks this Python instead, which says that torch sees no CUDA home, and looks no further.
if(DEFINED ENV{DLSPARK_PYTHON_WITHOUT_CUDA})
  set(PYTHON_EXECUTABLE "$ENV{DLSPARK_PYTHON_WITHOUT_CUDA}")
  set(CMAKE_CUDA_COMPILER "CMAKE_CUDA_COMPILER-NOTFOUND")
  set(CMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit TRUE)
endif()
