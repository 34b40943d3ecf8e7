// What the host must know of the device's layout of weights (packed_layout.cuh).
#pragma once

namespace pagoda::kernels::cuda {

int DeviceRecordBytes(int format);

}  // namespace pagoda::kernels::cuda
