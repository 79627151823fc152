import CoreML
import Foundation

/// A Core ML package, compiled once on the device and kept beside its archive.
final class CoreMLRunner: Model {
    let runtime = "Core ML of iOS \(systemVersion)"
    private(set) var compileMs: Double?
    private let candidate: Candidate
    private let folder: Folder
    private var model: MLModel?
    private var state: AnyObject?
    private var inputs: MLDictionaryFeatureProvider?
    private var earlier: [MLDictionaryFeatureProvider] = []
    private var result: MLFeatureProvider?

    init(_ candidate: Candidate, _ folder: Folder) {
        self.candidate = candidate
        self.folder = folder
    }

    var steps: Int { earlier.count }

    private var compiled: URL { folder.models.appendingPathComponent(candidate.model + ".mlmodelc") }

    func prepare() throws {
        inputs = try provider(candidate.inputs)
        earlier = try candidate.before.map(provider)
        if FileManager.default.fileExists(atPath: compiled.path) { return }
        let archive = folder.models.appendingPathComponent(candidate.model)
        let size = try FileManager.default.attributesOfItem(atPath: archive.path)[.size] as? Int
        guard size == candidate.bytes else { throw Trouble("load", "\(candidate.model) was copied in part only") }
        let package = FileManager.default.temporaryDirectory.appendingPathComponent("model.mlpackage")
        try? FileManager.default.removeItem(at: package)
        defer { try? FileManager.default.removeItem(at: package) }
        try untar(archive, into: package)
        var made: URL?
        compileMs = try timed { made = try MLModel.compileModel(at: package) }
        guard let made else { throw Trouble("load", "Core ML compiled nothing") }
        try FileManager.default.moveItem(at: made, to: compiled)
    }

    func load() throws {
        let loaded = try MLModel(contentsOf: compiled, configuration: try configuration())
        model = loaded
        if candidate.stateful {
            guard #available(iOS 18.0, *) else { throw Trouble("load", "keeps states, which needs iOS 18") }
            state = loaded.makeState()
        }
    }

    func run() throws {
        guard let inputs else { throw Trouble("run", "is not prepared") }
        try call(inputs)
    }

    func runStep(_ step: Int) throws { try call(earlier[step]) }

    private func call(_ given: MLFeatureProvider) throws {
        guard let model else { throw Trouble("run", "is not loaded") }
        if #available(iOS 18.0, *), let kept = state as? MLState {
            result = try model.prediction(from: given, using: kept)
        } else {
            result = try model.prediction(from: given)
        }
    }

    func outputs() throws -> [Output] {
        try candidate.outputs.map { name in
            guard let array = result?.featureValue(for: name)?.multiArrayValue else {
                throw Trouble("output", "there is no output called \(name)")
            }
            return try output(name, array)
        }
    }

    /// Where Core ML means to run each operator, by kind and unit. Nil before iOS 17.4.
    func plan() throws -> [[String: Any?]]? {
        guard #available(iOS 17.4, *) else { return nil }
        let url = compiled
        let asked = try configuration()
        let waiting = DispatchSemaphore(value: 0)
        let answer = Answer()
        Task {
            do {
                let plan = try await MLComputePlan.load(contentsOf: url, configuration: asked)
                answer.rows = placements(plan)
            } catch {
                answer.error = error
            }
            waiting.signal()
        }
        waiting.wait()
        if let error = answer.error { throw error }
        return answer.rows
    }

    private func configuration() throws -> MLModelConfiguration {
        let known: [String: MLComputeUnits] = [
            "all": .all, "cpuOnly": .cpuOnly, "cpuAndGPU": .cpuAndGPU, "cpuAndNeuralEngine": .cpuAndNeuralEngine,
        ]
        guard let name = candidate.compute_units, let units = known[name] else {
            throw Trouble("load", "compute units \(candidate.compute_units ?? "none") are not known here")
        }
        let found = MLModelConfiguration()
        found.computeUnits = units
        return found
    }

    private func provider(_ tensors: [TensorFile]) throws -> MLDictionaryFeatureProvider {
        var arrays: [String: Any] = [:]
        for tensor in tensors {
            arrays[tensor.name] = MLFeatureValue(multiArray: try array(tensor))
        }
        return try MLDictionaryFeatureProvider(dictionary: arrays)
    }

    private func array(_ tensor: TensorFile) throws -> MLMultiArray {
        let types: [String: MLMultiArrayDataType] = ["float16": .float16, "float32": .float32, "int32": .int32]
        let data = try values(tensor, folder)
        guard let type = types[tensor.dtype] else { throw Trouble("input", "\(tensor.dtype) is not known here") }
        let made = try MLMultiArray(shape: tensor.shape.map { NSNumber(value: $0) }, dataType: type)
        made.withUnsafeMutableBytes { target, _ in
            _ = data.copyBytes(to: target)
        }
        return made
    }

    /// As 32-bit floats in row-major order: Core ML may give padded rows and half precision.
    private func output(_ name: String, _ array: MLMultiArray) throws -> Output {
        let shape = array.shape.map { $0.intValue }
        let whole = try MLMultiArray(shape: array.shape, dataType: .float32)
        for index in 0..<array.count { whole[index] = array[index] }
        let data = whole.withUnsafeBytes { Data($0) }
        guard data.count == 4 * array.count else { throw Trouble("output", "\(name) is not laid out row by row") }
        return Output(name: name, dtype: "float32", shape: shape, data: data)
    }
}

/// What another thread found.
private final class Answer: @unchecked Sendable {
    var rows: [[String: Any?]] = []
    var error: Error?
}

@available(iOS 17.4, *)
private func placements(_ plan: MLComputePlan) -> [[String: Any?]] {
    guard case .program(let program) = plan.modelStructure else { return [] }
    var rows: [String: (kind: String, unit: String, supported: [String], count: Int, cost: Double?)] = [:]
    func walk(_ block: MLModelStructure.Program.Block) {
        for operation in block.operations {
            for inner in operation.blocks { walk(inner) }
            let kind = operation.operatorName.split(separator: ".").last.map(String.init) ?? operation.operatorName
            if kind == "const" { continue }
            let usage = plan.deviceUsage(for: operation)
            let unit = usage.map { name($0.preferred) } ?? "unknown"
            let supported = usage.map { $0.supported.map(name).sorted() } ?? []
            let cost = plan.estimatedCost(of: operation)?.weight
            let key = ([kind, unit] + supported).joined(separator: "|")
            if let row = rows[key] {
                var sum: Double?
                if let before = row.cost, let cost { sum = before + cost }
                rows[key] = (kind, unit, supported, row.count + 1, sum)
            } else {
                rows[key] = (kind, unit, supported, 1, cost)
            }
        }
    }
    for function in program.functions.values { walk(function.block) }
    let sorted = rows.values.sorted { ($0.cost ?? 0, $1.kind) > ($1.cost ?? 0, $0.kind) }
    return sorted.map {
        ["kind": $0.kind, "unit": $0.unit, "supported": $0.supported, "operators": $0.count, "cost_share": $0.cost]
    }
}

@available(iOS 17.4, *)
private func name(_ device: MLComputeDevice) -> String {
    switch device {
    case .cpu: return "CPU"
    case .gpu: return "GPU"
    case .neuralEngine: return "Neural Engine"
    @unknown default: return "unknown"
    }
}
