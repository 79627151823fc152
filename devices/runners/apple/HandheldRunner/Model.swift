import Foundation

/// Values of one output, little-endian, in row-major order.
struct Output {
    let name: String
    let dtype: String
    let shape: [Int]
    let data: Data
}

/// A model that is loaded. `prepare` comes before it is loaded and is not timed as loading.
protocol Model: AnyObject {
    var runtime: String { get }
    /// Milliseconds that compiling took, where it was done in this launch.
    var compileMs: Double? { get }
    func prepare() throws
    func load() throws
    /// One inference on the job's inputs.
    func run() throws
    /// The calls that go ahead of it, in a stream whose states the model keeps.
    var steps: Int { get }
    func runStep(_ step: Int) throws
    func outputs() throws -> [Output]
}

func makeModel(_ candidate: Candidate, _ folder: Folder) throws -> Model {
    switch candidate.runtime {
    case "coreml":
        return CoreMLRunner(candidate, folder)
    #if canImport(ExecuTorch)
    case "executorch":
        return ExecuTorchRunner(candidate, folder)
    #endif
    default:
        throw Trouble("load", "this app was built without \(candidate.runtime)")
    }
}

var runtimes: [String] {
    #if canImport(ExecuTorch)
    return ["coreml", "executorch"]
    #else
    return ["coreml"]
    #endif
}

/// Milliseconds that `work` takes, by a clock that does not stand still or jump.
func timed(_ work: () throws -> Void) rethrows -> Double {
    let start = clock_gettime_nsec_np(CLOCK_UPTIME_RAW)
    try work()
    return Double(clock_gettime_nsec_np(CLOCK_UPTIME_RAW) - start) / 1e6
}

/// A file of the job, with as many bytes as its shape asks for.
func values(_ tensor: TensorFile, _ folder: Folder) throws -> Data {
    let sizes = ["float16": 2, "float32": 4, "int32": 4]
    guard let size = sizes[tensor.dtype] else { throw Trouble("input", "inputs of \(tensor.dtype) are not known here") }
    let data = try Data(contentsOf: folder.file(tensor.file))
    let wanted = tensor.shape.reduce(size, *)
    guard data.count == wanted else {
        throw Trouble("input", "\(tensor.file) has \(data.count) bytes and should have \(wanted)")
    }
    return data
}

/// Unpack the plain files of an uncompressed tar (ustar) into a folder.
func untar(_ archive: URL, into folder: URL) throws {
    let data = try Data(contentsOf: archive, options: .mappedIfSafe)
    var at = 0
    while at + 512 <= data.count {
        let header = data.subdata(in: at..<at + 512)
        if header.allSatisfy({ $0 == 0 }) { return }
        let name = text(header, 0, 100)
        let prefix = text(header, 345, 155)
        guard let size = Int(text(header, 124, 12).trimmingCharacters(in: .whitespaces), radix: 8),
              at + 512 + size <= data.count
        else { throw Trouble("load", "\(archive.lastPathComponent) was copied in part only") }
        let path = prefix.isEmpty ? name : prefix + "/" + name
        guard !path.hasPrefix("/"), !path.split(separator: "/").contains("..") else {
            throw Trouble("load", "\(archive.lastPathComponent) names a file outside of itself")
        }
        let target = folder.appendingPathComponent(path)
        try FileManager.default.createDirectory(
            at: target.deletingLastPathComponent(), withIntermediateDirectories: true)
        try data.subdata(in: at + 512..<at + 512 + size).write(to: target)
        at += 512 + (size + 511) / 512 * 512
    }
}

private func text(_ header: Data, _ start: Int, _ length: Int) -> String {
    let bytes = header.subdata(in: start..<start + length).prefix { $0 != 0 }
    return String(decoding: bytes, as: UTF8.self)
}
