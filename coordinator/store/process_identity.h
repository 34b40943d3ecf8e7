// Which process this is, in a form that another one on the same host can check: boot, pid namespace, pid, start time. So that
// a lease need not be waited for when its holder is dead, and a number that was given out again is not taken for it.
#pragma once

#include <string>

namespace pagoda::coordinator {

std::string ThisProcess();
// Certain only of processes of this boot and this pid namespace; false otherwise.
bool IsCertainlyDead(const std::string& process);
// Of this boot of the machine.
std::string ThisBoot();

}  // namespace pagoda::coordinator
