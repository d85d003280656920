import java.io.File

fun main() {
    File("out.txt").writeText("made by kotlin\n")
}
