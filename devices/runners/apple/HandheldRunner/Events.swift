import Foundation

/// Appends one JSON object a line. Each line is written by one call of the system before the app goes on, so that a crash
/// of the app or a lost connection costs no line that was told before.
final class Events {
    private let descriptor: Int32

    init(_ url: URL, anew: Bool) throws {
        let flags = O_WRONLY | O_CREAT | O_APPEND | (anew ? O_TRUNC : 0)
        descriptor = open(url.path, flags, 0o644)
        guard descriptor >= 0 else { throw Trouble("events", "cannot write \(url.lastPathComponent)") }
        // what broke off in an earlier launch must not swallow this launch's first line
        if !anew, let size = try? FileManager.default.attributesOfItem(atPath: url.path)[.size] as? Int, size > 0 {
            write(Data("\n".utf8))
        }
    }

    func tell(_ event: String, _ fields: [String: Any?] = [:]) {
        var object: [String: Any] = fields.mapValues { $0 ?? NSNull() }
        object["event"] = event
        guard var line = try? JSONSerialization.data(withJSONObject: object, options: [.sortedKeys]) else { return }
        line.append(0x0A)
        write(line)
    }

    func step(_ what: String, _ candidate: Int) {
        tell("step", ["what": what, "candidate": candidate])
    }

    private func write(_ data: Data) {
        data.withUnsafeBytes { bytes in
            var done = 0
            while done < bytes.count {
                let count = Darwin.write(descriptor, bytes.baseAddress! + done, bytes.count - done)
                if count <= 0 { return }
                done += count
            }
        }
    }
}
