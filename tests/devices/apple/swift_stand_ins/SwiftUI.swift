// Stands in for the part of SwiftUI that the runner app uses; nothing is drawn.
@_exported import Foundation

public protocol ObservableObject: AnyObject {}

@propertyWrapper @MainActor public struct StateObject<T: ObservableObject> {
    public let wrappedValue: T
    public init(wrappedValue: @autoclosure @escaping () -> T) { self.wrappedValue = wrappedValue() }
}

@propertyWrapper public struct Published<T> {
    public var wrappedValue: T
    public init(wrappedValue: T) { self.wrappedValue = wrappedValue }
}

public protocol Scene {}

@MainActor public protocol App {
    associatedtype Body: Scene
    @SceneBuilder @MainActor var body: Body { get }
    init()
}

extension App {
    @MainActor public static func main() {}
}

@resultBuilder public struct SceneBuilder {
    public static func buildBlock<S: Scene>(_ scene: S) -> S { scene }
}

@MainActor public protocol View {}

public struct Views: View {
    nonisolated init() {}
}

@resultBuilder public struct ViewBuilder {
    public static func buildBlock<V: View>(_ view: V) -> V { view }
    public static func buildBlock<A: View, B: View>(_ first: A, _ second: B) -> Views { Views() }
}

public struct WindowGroup: Scene {
    public init<V: View>(@ViewBuilder content: () -> V) {}
}

public struct VStack: View {
    public init<V: View>(spacing: Double? = nil, @ViewBuilder content: () -> V) {}
}

public enum Font { case largeTitle }
public enum TextAlignment { case center }

public struct Text: View {
    public init(_ words: String) {}
    public func font(_ font: Font) -> Text { self }
    public func multilineTextAlignment(_ alignment: TextAlignment) -> some View { self }
}

extension View {
    public func padding() -> some View { self }
    public func onAppear(perform action: (() -> Void)? = nil) -> some View { self }
}
