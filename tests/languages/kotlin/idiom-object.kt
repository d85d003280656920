object App {
    @JvmStatic fun main(args: Array<String>) { println(7) }
}
