// Stands in for the part of Apple's system library that the runner app uses.
@_exported import Glibc

public typealias mach_msg_type_number_t = UInt32
public typealias natural_t = UInt32
public typealias integer_t = Int32
public typealias task_flavor_t = UInt32

public struct task_vm_info_data_t {
    public var phys_footprint: UInt64 = 0
    public init() {}
}

public let TASK_VM_INFO: Int32 = 22
public let KERN_SUCCESS: Int32 = 0
public let mach_task_self_: UInt32 = 0
public let CLOCK_UPTIME_RAW: Int32 = 8

/// Writes a footprint of 12,345 bytes where `phys_footprint` lies.
public func task_info(
    _ task: UInt32, _ flavor: task_flavor_t, _ info: UnsafeMutablePointer<integer_t>!,
    _ count: UnsafeMutablePointer<mach_msg_type_number_t>!
) -> Int32 {
    info[0] = 12_345
    info[1] = 0
    return 0
}

public func clock_gettime_nsec_np(_ clock: Int32) -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
