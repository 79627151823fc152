// The app without its screen: works off what its arguments name.
import Foundation

@main
struct Main {
    static func main() {
        let thread = Thread {
            Runner(Arguments(CommandLine.arguments)!, charging: true).run()
            exit(0)
        }
        thread.stackSize = 16 << 20
        thread.start()
        while true { sleep(1) }
    }
}
