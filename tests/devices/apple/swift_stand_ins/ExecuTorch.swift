// Stands in for the part of ExecuTorch's Swift module that the runner app uses; runs nothing.
import Foundation

public enum DataType { case float }
public protocol Scalar {}
extension Float: Scalar {}

public protocol ValueConvertible {}

public class AnyTensor: ValueConvertible {
    public init(data: Data, shape: [Int], strides: [Int] = [], dimensionOrder: [Int] = [], dataType: DataType) {}
}

public final class Tensor<T: Scalar> {
    public var shape: [Int] { [] }
    public func withUnsafeBytes<R>(_ body: (UnsafeBufferPointer<T>) throws -> R) throws -> R {
        try body(UnsafeBufferPointer(start: nil, count: 0))
    }
}

public class Value {
    public func tensor<T: Scalar>() -> Tensor<T>? { nil }
}

public class Module {
    public init(filePath: String) {}
    public func load(_ method: String) throws {}
    public func forward(_ inputs: [ValueConvertible]) throws -> [Value] { [] }
}
