#if canImport(ExecuTorch)
import ExecuTorch
import Foundation

/// An ExecuTorch program, delegated to Core ML or XNNPACK. Its inputs and outputs are 32-bit floats.
final class ExecuTorchRunner: Model {
    let runtime = "ExecuTorch of the app"
    let compileMs: Double? = nil
    let steps = 0
    private let candidate: Candidate
    private let folder: Folder
    private var module: Module?
    private var inputs: [AnyTensor] = []
    private var results: [Value] = []

    init(_ candidate: Candidate, _ folder: Folder) {
        self.candidate = candidate
        self.folder = folder
    }

    func prepare() throws {
        inputs = try candidate.inputs.map { tensor in
            guard tensor.dtype == "float32" else { throw Trouble("input", "ExecuTorch is given float32 only") }
            return AnyTensor(data: try values(tensor, folder), shape: tensor.shape, dataType: .float)
        }
    }

    func load() throws {
        let made = Module(filePath: folder.models.appendingPathComponent(candidate.model).path)
        try made.load("forward")
        module = made
    }

    func run() throws {
        guard let module else { throw Trouble("run", "is not loaded") }
        results = try module.forward(inputs)
    }

    func runStep(_ step: Int) throws { throw Trouble("run", "has no earlier steps") }

    func outputs() throws -> [Output] {
        guard results.count == candidate.outputs.count else {
            throw Trouble("output", "\(results.count) outputs instead of \(candidate.outputs.count)")
        }
        return try zip(candidate.outputs, results).map { name, value in
            guard let tensor: ExecuTorch.Tensor<Float> = value.tensor() else {
                throw Trouble("output", "\(name) is no tensor of 32-bit floats")
            }
            let data = try tensor.withUnsafeBytes { Data(buffer: $0) }
            return Output(name: name, dtype: "float32", shape: tensor.shape, data: data)
        }
    }
}
#endif
