fun main() {
    error("no")
}
