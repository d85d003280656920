package a.b

class App {
    companion object {
        @JvmStatic fun main(args: Array<String>) { println(args[0]) }
    }
}
