// Between grid.cpp, which sets blocks up, and scheduler.cpp, which lets their threads take turns.
#pragma once

#include "runtime.h"

namespace mer_fast::host {

void thread_main();  // a fiber's entry: runs the body once for each block that gives it a thread
void make_ready(Block& block, const Order& order);
// Until every thread of the cluster has ended.
void run_cluster(Order& order, Body body, const void* parameters);

}  // namespace mer_fast::host
