# CMake reads this file first: horovod_wheel.py names it in the environment variable CMAKE_TOOLCHAIN_FILE.
# It has Horovod's project() include horovod-project.cmake, so that Horovod's own sources stay as they are.
set(CMAKE_PROJECT_INCLUDE "${CMAKE_CURRENT_LIST_DIR}/horovod-project.cmake")
