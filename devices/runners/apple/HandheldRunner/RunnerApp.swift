import SwiftUI
import UIKit

/// The app. It works off what its launch arguments name (see `devices/apple_jobs.py`), then ends itself.
@main
struct RunnerApp: App {
    @StateObject private var status = Status()

    var body: some Scene {
        WindowGroup {
            VStack(spacing: 12) {
                Text("Handheld").font(.largeTitle)
                Text(status.text).multilineTextAlignment(.center)
            }
            .padding()
            .onAppear { start(status) }
        }
    }
}

/// What the screen says.
final class Status: ObservableObject {
    @Published var text = "Started from a Mac by `handheld profile --device iphone`."

    func say(_ words: String) {
        DispatchQueue.main.async { self.text = words }
    }
}

/// Run the pass in a thread of its own, so that the screen stays alive and iOS does not end the app.
@MainActor
private func start(_ status: Status) {
    guard let arguments = Arguments(CommandLine.arguments) else { return }
    UIApplication.shared.isIdleTimerDisabled = true
    UIDevice.current.isBatteryMonitoringEnabled = true
    let battery = UIDevice.current.batteryState
    let charging: Bool? = battery == .unknown ? nil : battery != .unplugged
    let thread = Thread {
        status.say("Measuring (\(arguments.work)). Leave the screen on.")
        Runner(arguments, charging: charging).run()
        exit(0)
    }
    thread.stackSize = 16 << 20
    thread.qualityOfService = .userInteractive
    thread.start()
}
