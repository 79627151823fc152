import Foundation

/// The memory that iOS counts against this app (`phys_footprint`), in bytes: the figure by which it ends apps.
func footprint() throws -> Int {
    var info = task_vm_info_data_t()
    var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
    let result = withUnsafeMutablePointer(to: &info) { pointer in
        pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) { words in
            task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), words, &count)
        }
    }
    guard result == KERN_SUCCESS else { throw Trouble("memory", "task_info failed with \(result)") }
    return Int(info.phys_footprint)
}

/// Asks for the footprint every few milliseconds, since iOS keeps no peak that can be set back.
final class PeakWatch: @unchecked Sendable {
    private let lock = NSLock()
    private var peak: Int
    private var running = true
    private let done = DispatchSemaphore(value: 0)

    init(_ start: Int) { peak = start }

    func start() {
        let thread = Thread { [self] in
            while isRunning() {
                if let now = try? footprint() { note(now) }
                usleep(2000)
            }
            done.signal()
        }
        thread.qualityOfService = .userInitiated
        thread.start()
    }

    func stop() -> Int {
        lock.lock()
        running = false
        lock.unlock()
        done.wait()
        return peak
    }

    private func isRunning() -> Bool {
        lock.lock()
        defer { lock.unlock() }
        return running
    }

    private func note(_ now: Int) {
        lock.lock()
        peak = max(peak, now)
        lock.unlock()
    }
}
